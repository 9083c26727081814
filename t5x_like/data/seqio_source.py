"""Fills token caches from seqio tasks; the only file of this package that imports seqio and TensorFlow.

Run as a program, once per split: python -m t5x_like.data.seqio_source --task=NAME --split=NAME --root=FOLDER
"""

import argparse
import contextlib
import difflib
import fcntl
import functools
import importlib
import inspect
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Nothing is computed here; the accelerators belong to the process that trains.
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
os.environ["JAX_PLATFORMS"] = "cpu"

import numpy as np
import seqio

from t5x_like.data import cache_writer, token_cache
from t5x_like.data.token_cache import TokenCache
from t5x_like.progress import Bar

OWN_PACKAGES = ("seqio",)  # told apart by version; every other module that defines a task by the hash of its source


def find_task(name: str, module: str, arguments: dict | None = None) -> seqio.Task:
    """The task `name`, after importing `module`; where there are arguments, `module.define(name, **arguments)` makes it.

    Raises:
      ValueError: no such task, with those of similar names; arguments that the module does not take.
    """
    imported = importlib.import_module(module)
    if arguments:
        define(imported, name, arguments)
    if name not in seqio.TaskRegistry.names():
        near = difflib.get_close_matches(name, seqio.TaskRegistry.names(), 5, 0.3)
        known = ", ".join(near or sorted(seqio.TaskRegistry.names())[:10])
        raise ValueError(f"no seqio task {name!r} in module {module!r}; did you mean one of: {known}?")
    return seqio.TaskRegistry.get(name)


def define(module, name: str, arguments: dict) -> None:
    """Has a module register a task to order, unless it did before."""
    if not hasattr(module, "define"):
        raise ValueError(
            f"arguments={arguments}: module {module.__name__!r} has no `define(name, **arguments)` to make a task with them"
        )
    try:
        inspect.signature(module.define).bind(name, **arguments)
    except TypeError as error:
        takes = inspect.signature(module.define)
        raise ValueError(f"arguments={arguments} do not fit {module.__name__}.define{takes}: {error}") from error
    if name not in seqio.TaskRegistry.names():
        module.define(name, **arguments)


def cached_part(task: seqio.Task) -> list:
    """The preprocessors before the cache placeholder; all of them when there is none."""
    steps = list(task.preprocessors)
    places = [i for i, step in enumerate(steps) if isinstance(step, seqio.CacheDatasetPlaceholder)]
    return steps[: places[0]] if places else steps


def described(value) -> tuple[object, set[str]]:
    """A value as JSON that says what it does, and the modules whose source it depends on."""
    if isinstance(value, functools.partial):
        parts = [described(x) for x in (value.func, *value.args, *(x for _, x in sorted(value.keywords.items())))]
        return [text for text, _ in parts] + sorted(value.keywords), set().union(*(names for _, names in parts))
    if callable(value):
        plain = inspect.unwrap(value)
        return getattr(plain, "__qualname__", type(plain).__qualname__), {plain.__module__}
    return repr(value), set()


def data_patterns(source: seqio.DataSource) -> list[str]:
    """The file patterns that a source of files reads, of all splits; none for other sources."""
    if not isinstance(source, seqio.FileDataSource):
        return []
    given = source._split_to_filepattern.values()
    return sorted({str(p) for one in given for p in ([one] if isinstance(one, str | os.PathLike) else one)})


def inputs_of(task: seqio.Task, module: str, arguments: dict | None = None) -> dict:
    """Everything a cache of the task depends on, as JSON: see `token_cache`."""
    source, defining = described(getattr(task.source, "_dataset_fn", type(task.source)))
    steps = [described(step) for step in cached_part(task)]
    vocabularies = [feature.vocabulary for feature in task.output_features.values()]
    defining |= {module}.union(*(names for _, names in steps))
    defining |= {type(x).__module__ for vocabulary in vocabularies for x in (vocabulary, vocabulary.light)}
    features = {
        name: {"vocabulary": feature.vocabulary.light.fingerprint, "add_eos": feature.add_eos}
        for name, feature in task.output_features.items()
    }
    modules = sorted(name for name in defining if name.split(".")[0] not in OWN_PACKAGES)
    return {
        "format": 1,
        "task": task.name,
        **({"arguments": arguments} if arguments else {}),
        "source": source,
        "features": features,
        "preprocessors": [text for text, _ in steps],
        "modules": {name: token_cache.source_hash(name) for name in modules},
        "data": {pattern: token_cache.data_hash(pattern) for pattern in data_patterns(task.source)},
        "versions": {name: token_cache.package_version(name) for name in ("python", "seqio")},
    }


def check_vocabularies(task: seqio.Task) -> None:
    """Training needs the vocabulary without TensorFlow, and one for all features."""
    for name, feature in task.output_features.items():
        if not hasattr(feature.vocabulary, "light"):
            raise ValueError(
                f"feature {name!r} of task {task.name!r} has a {type(feature.vocabulary).__name__}; "
                "use one of tasks.vocabularies, which can be read without TensorFlow"
            )
    if len({feature.vocabulary.light.fingerprint for feature in task.output_features.values()}) > 1:
        raise ValueError(f"the features of task {task.name!r} have different vocabularies; give them the same one")


def examples(task: seqio.Task, split: str) -> Iterator[dict[str, np.ndarray]]:
    """The tokenized documents of a split, in the source's order, with a progress bar."""
    dataset = task.get_dataset(None, split, shuffle=False, trim_output_features=False)
    tokens = 0
    with Bar(f"tokenizing {task.name}/{split}", task.source.num_input_examples(split) or 0) as bar:
        for done, example in enumerate(dataset.as_numpy_iterator(), 1):
            yield {name: example[name] for name in task.output_features}
            tokens += sum(len(example[name]) for name in task.output_features)
            bar.advance(done, f"documents, {tokens:,} tokens")


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Only one process at a time; a lock dies with its process."""
    with open(path, "w") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield


def build(name: str, split: str, module: str, root: str, arguments: dict | None = None) -> Path:
    """Tokenizes one split of a task unless a fresh cache is there; a cache appears whole or not at all.

    Raises:
      ValueError: unknown task or split, ids outside the vocabulary, no example.
      OSError: the cache folder cannot be written.
    """
    task = find_task(name, module, arguments)
    if split not in task.splits:
        raise ValueError(f"task {name!r} has no split {split!r}; it has {', '.join(task.splits)}")
    check_vocabularies(task)
    parent = Path(root) / name
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise type(error)(
            f"root={root} cannot be written ({error.strerror}); set token_cache.TokenCache.root or $T5X_LIKE_CACHE to a "
            "folder that can"
        ) from error
    with locked(parent / f".{split}.lock"):
        fresh = TokenCache(name, split, module, root, arguments=arguments or {}).find()
        if fresh is not None:
            return fresh
        inputs = inputs_of(task, module, arguments)
        target = parent / token_cache.fingerprint_of(inputs) / split
        target.parent.mkdir(exist_ok=True)
        for left in parent.glob(f".building_{split}_*"):
            shutil.rmtree(left, ignore_errors=True)  # of a process that died; the lock is ours
        folder = parent / f".building_{split}_{os.getpid()}"
        folder.mkdir()  # with the user's umask: caches are shared
        try:
            vocabulary = next(iter(task.output_features.values())).vocabulary.light
            cache_writer.write(
                folder, name, split, inputs, vocabulary, list(task.output_features), examples(task, split)
            )
            shutil.rmtree(target, ignore_errors=True)
            folder.rename(target)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    return target


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m t5x_like.data.seqio_source", description="Tokenizes a split.")
    parser.add_argument("--task", required=True)
    parser.add_argument("--split", required=True)
    parser.add_argument("--module", default="tasks.pretraining")
    parser.add_argument("--root", default=str(token_cache.default_root()))
    parser.add_argument("--arguments", type=json.loads, default={}, help="JSON; what module.define(task, **it) takes")
    args = parser.parse_args(argv)
    try:
        build(args.task, args.split, args.module, args.root, args.arguments)
    except (ValueError, OSError, ImportError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

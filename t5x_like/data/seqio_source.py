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
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Nothing is computed here; the accelerators belong to the process that trains.
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
os.environ["JAX_PLATFORMS"] = "cpu"

import numpy as np
import seqio

from t5x_like.data import token_cache
from t5x_like.data.token_cache import TokenCache
from t5x_like.progress import Bar

OWN_PACKAGES = ("seqio",)  # told apart by version; every other module that defines a task by the hash of its source


def find_task(name: str, module: str) -> seqio.Task:
    """The task `name`, after importing `module`.

    Raises:
      ValueError: no such task, with those of similar names.
    """
    importlib.import_module(module)
    if name not in seqio.TaskRegistry.names():
        near = difflib.get_close_matches(name, seqio.TaskRegistry.names(), 5, 0.3)
        known = ", ".join(near or sorted(seqio.TaskRegistry.names())[:10])
        raise ValueError(f"no seqio task {name!r} in module {module!r}; did you mean one of: {known}?")
    return seqio.TaskRegistry.get(name)


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


def inputs_of(task: seqio.Task, module: str) -> dict:
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
        "source": source,
        "features": features,
        "preprocessors": [text for text, _ in steps],
        "modules": {name: token_cache.source_hash(name) for name in modules},
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
    """The tokenized documents of a split, in the source's order."""
    for example in task.get_dataset(None, split, shuffle=False, trim_output_features=False).as_numpy_iterator():
        yield {name: np.asarray(example[name]) for name in task.output_features}


class FeatureFile:
    """Writes one feature's tokens and offsets."""

    def __init__(self, folder: Path, name: str, vocab_size: int):
        self.name, self.vocab_size = name, vocab_size
        self.dtype = np.uint16 if vocab_size <= 2**16 else np.uint32
        self.tokens = open(folder / f"{name}.tokens", "wb")  # noqa: SIM115
        self.offsets, self.max_id = [0], 0

    def add(self, ids: np.ndarray, document: int) -> None:
        low, high = (int(ids.min()), int(ids.max())) if len(ids) else (0, 0)
        if low < 0 or high >= self.vocab_size:
            raise ValueError(
                f"document {document} has the id {high if low >= 0 else low} in feature {self.name!r}, "
                f"its vocabulary has {self.vocab_size} ids; the preprocessors and the vocabulary do not fit together"
            )
        self.max_id = max(self.max_id, high)
        self.tokens.write(ids.astype(self.dtype).tobytes())
        self.offsets.append(self.offsets[-1] + len(ids))

    def close(self, folder: Path) -> dict:
        self.tokens.close()
        np.asarray(self.offsets, np.int64).tofile(folder / f"{self.name}.offsets")
        return {"dtype": np.dtype(self.dtype).name, "tokens": self.offsets[-1], "max_id": self.max_id}


def write(task: seqio.Task, split: str, inputs: dict, folder: Path) -> None:
    """Fills `folder` with the cache of a split; the manifest comes last."""
    vocabulary = next(iter(task.output_features.values())).vocabulary.light
    files = {name: FeatureFile(folder, name, vocabulary.vocab_size) for name in task.output_features}
    documents = 0
    total = task.source.num_input_examples(split)
    with Bar(f"tokenizing {task.name}/{split}", total or 0) as bar:
        for example in examples(task, split):
            for name, file in files.items():
                file.add(example[name], documents)
            documents += 1
            tokens = sum(file.offsets[-1] for file in files.values())
            bar.advance(documents, f"documents, {tokens:,} tokens")
    if documents == 0:
        raise ValueError(f"task {task.name!r} has no example in split {split!r}")
    features = {name: file.close(folder) for name, file in files.items()}
    vocabulary.save(folder / "vocabulary")
    manifest = {
        "fingerprint": token_cache.fingerprint_of(inputs),
        "inputs": inputs,
        "task": task.name,
        "split": split,
        "documents": documents,
        "vocab_size": vocabulary.vocab_size,
        "features": features,
        "files": {
            path.name: {"bytes": path.stat().st_size, "sha256": token_cache.file_hash(path)}
            for path in sorted(folder.iterdir())
            if path.is_file()
        },
    }
    (folder / token_cache.MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Only one process at a time; a lock dies with its process."""
    with open(path, "w") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield


def build(name: str, split: str, module: str, root: str) -> Path:
    """Tokenizes one split of a task unless a fresh cache is there; a cache appears whole or not at all.

    Raises:
      ValueError: unknown task or split, ids outside the vocabulary, no example.
      PermissionError: the cache folder cannot be written.
    """
    task = find_task(name, module)
    if split not in task.splits:
        raise ValueError(f"task {name!r} has no split {split!r}; it has {', '.join(task.splits)}")
    check_vocabularies(task)
    parent = Path(root) / name
    parent.mkdir(parents=True, exist_ok=True)
    with locked(parent / f".{split}.lock"):
        fresh = TokenCache(name, split, module, root).find()
        if fresh is not None:
            return fresh
        inputs = inputs_of(task, module)
        target = parent / token_cache.fingerprint_of(inputs) / split
        target.parent.mkdir(exist_ok=True)
        for left in parent.glob(f".building_{split}_*"):
            shutil.rmtree(left, ignore_errors=True)  # of a process that died; the lock is ours
        folder = Path(tempfile.mkdtemp(prefix=f".building_{split}_", dir=parent))
        try:
            write(task, split, inputs, folder)
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
    args = parser.parse_args(argv)
    try:
        build(args.task, args.split, args.module, args.root)
    except (ValueError, OSError, ImportError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What a token cache of a seqio task depends on: its source, its steps before the cache placeholder, its vocabularies."""

import difflib
import functools
import importlib
import inspect
import json
import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import seqio

from t5x_like.data.cache import token_cache
from t5x_like.data.cache.tokenizing import is_mask
from t5x_like.data.tokenizers.huggingface import TokenizerVocabulary
from t5x_like.tasks.caching.module_sources import with_imports
from t5x_like.tasks.caching.steps import cached_features
from t5x_like.tasks.caching.steps import split as split_steps
from t5x_like.types import Vocabulary

# Identified by version; other modules that define a task are identified by the hash of their source.
VERSIONED_PACKAGES = {"seqio", *sys.stdlib_module_names}
DEFINED: dict[str, tuple[str, str]] = {}  # module and arguments of the tasks that `define` registered


def import_tasks(name: str, module: str, arguments: dict | None = None) -> None:
    """Imports `module`, which registers tasks; with arguments, `module.define(name, **arguments)` registers one.

    Raises:
      ValueError: the module does not take these arguments.
    """
    imported = importlib.import_module(module)
    if arguments:
        define(imported, name, arguments)


def find_task(name: str, module: str, arguments: dict | None = None) -> seqio.Task:
    """The task `name`, after `import_tasks`.

    Raises:
      ValueError: no such task (the message lists similar names), or the module does not take these arguments.
    """
    import_tasks(name, module, arguments)
    if name not in seqio.TaskRegistry.names():
        near = difflib.get_close_matches(name, seqio.TaskRegistry.names(), 5, 0.3)
        known = ", ".join(near or sorted(seqio.TaskRegistry.names())[:10])
        raise ValueError(f"no seqio task {name!r} in module {module!r}; did you mean one of: {known}?")
    return seqio.TaskRegistry.get(name)


def define(module: ModuleType, name: str, arguments: dict) -> None:
    """Calls `module.define(name, **arguments)` unless this was the last definition of the task.

    Raises:
      ValueError: the module has no `define`, it does not take these arguments, or the name is that of another task.
    """
    if not hasattr(module, "define"):
        raise ValueError(
            f"arguments={arguments}: module {module.__name__!r} has no `define(name, **arguments)` that takes them"
        )
    known = inspect.signature(module.define).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values())
    if unknown := [key for key in arguments if key not in known and not takes_any]:
        raise ValueError(f"{module.__name__}.define has no argument {unknown[0]!r}; it has {', '.join([*known][1:])}")
    try:
        inspect.signature(module.define).bind(name, **arguments)
    except TypeError as error:
        takes = inspect.signature(module.define)
        raise ValueError(f"arguments={arguments} do not fit {module.__name__}.define{takes}: {error}") from error
    definition = (module.__name__, json.dumps(arguments, sort_keys=True))
    if name in seqio.TaskRegistry.names():
        if DEFINED.get(name) == definition:
            return
        if name not in DEFINED:
            raise ValueError(f"the name {name!r} is that of a registered task; give the data set another name")
        seqio.TaskRegistry.remove(name)
    module.define(name, **arguments)
    DEFINED[name] = definition


def vocabulary_of(task: seqio.Task) -> Vocabulary:
    """The TensorFlow-free vocabulary of a task's tokens."""
    return next(feature.vocabulary.plain for name, feature in task.output_features.items() if not is_mask(name))


def check_task(task: seqio.Task, split: str) -> None:
    """Checks, before anything is read, that a split of a task can be cached.

    Raises:
      ValueError: no such split, or a step or vocabulary that cannot be cached.
    """
    if split not in task.splits:
        raise ValueError(f"task {task.name!r} has no split {split!r}; it has {', '.join(task.splits)}")
    check_vocabularies(task)
    split_steps(task)


def check_vocabularies(task: seqio.Task) -> None:
    """Checks that all features share one TensorFlow-free vocabulary, and that masks are 0 or 1.

    Raises:
      ValueError: a feature has another vocabulary; the message names it.
    """
    tokens = {name: feature for name, feature in task.output_features.items() if not is_mask(name)}
    for name in task.output_features.keys() - tokens.keys():
        vocabulary = task.output_features[name].vocabulary
        if not isinstance(vocabulary, seqio.PassThroughVocabulary) or vocabulary.vocab_size != 2:
            raise ValueError(
                f"feature {name!r} of task {task.name!r} is named as a mask, but has a {type(vocabulary).__name__} of "
                f"{vocabulary.vocab_size} ids; give it seqio.PassThroughVocabulary(2), or another name"
            )
    if not tokens:
        raise ValueError(
            f"task {task.name!r} has no feature of tokens, only {', '.join(task.output_features)}; add one"
        )
    for name, feature in tokens.items():
        if not hasattr(feature.vocabulary, "plain"):
            raise ValueError(
                f"feature {name!r} of task {task.name!r} has a {type(feature.vocabulary).__name__}; "
                "use one of t5x_like.tasks.vocabularies, which can be read without TensorFlow"
            )
    if len({feature.vocabulary.plain.fingerprint for feature in tokens.values()}) > 1:
        raise ValueError(f"the features of task {task.name!r} have different vocabularies; give them the same one")


def describe_value(value: Any) -> tuple[object, set[str]]:
    """(JSON that identifies a value, the modules whose source defines it)."""
    if isinstance(value, functools.partial):
        values = (value.func, *value.args, *(x for _, x in sorted(value.keywords.items())))
        parts = [describe_value(x) for x in values]
        return [text for text, _ in parts] + sorted(value.keywords), set().union(*(names for _, names in parts))
    if callable(value):
        function = inspect.unwrap(value)
        return getattr(function, "__qualname__", type(function).__qualname__), {function.__module__}
    return repr(value), set()


def describe_source(source: seqio.DataSource) -> tuple[object, set[str], list[str]]:
    """(JSON that identifies a source, the modules that define it, patterns of its files in all splits)."""
    if hasattr(source, "inputs"):  # the sources in t5x_like.tasks.sources.files describe themselves
        inputs = source.inputs()
        parts = [describe_value(x) for x in (type(source), *inputs["functions"])]
        modules = {base.__module__ for base in type(source).__mro__}.union(*(names for _, names in parts))
        return [*(text for text, _ in parts), inputs["options"]], modules, inputs["data"]
    text, modules = describe_value(getattr(source, "_dataset_fn", type(source)))
    splits = source._split_to_filepattern.values() if isinstance(source, seqio.FileDataSource) else ()
    patterns = [str(p) for paths in splits for p in ([paths] if isinstance(paths, str | os.PathLike) else paths)]
    return text, modules, patterns


def describe_feature(name: str, feature: seqio.Feature, eos_after_trim: bool) -> dict:
    """JSON that identifies a feature."""
    vocabulary = "mask" if is_mask(name) else feature.vocabulary.plain.fingerprint
    trim = {"eos_after_trim": True} if eos_after_trim and feature.add_eos else {}
    return {"vocabulary": vocabulary, "add_eos": feature.add_eos, **trim}


def cache_inputs(task: seqio.Task, module: str, arguments: dict | None = None) -> dict:
    """Everything a cache of the task depends on, as JSON: see `token_cache`."""
    source, defining, data = describe_source(task.source)
    task_steps = split_steps(task)
    steps = [describe_value(step) for step in task_steps.cached]
    vocabularies = [feature.vocabulary for feature in task.output_features.values()]
    defining |= {module}.union(*(names for _, names in steps))
    data = sorted({*data, *(pattern for v in vocabularies for pattern in getattr(v, "files", ()))})
    defining |= {type(x).__module__ for v in vocabularies for x in (v, getattr(v, "plain", v))}
    modules = sorted(with_imports(name for name in defining if name.split(".")[0] not in VERSIONED_PACKAGES))
    libraries = ["tokenizers"] if isinstance(vocabulary_of(task), TokenizerVocabulary) else []
    return {
        "format": token_cache.FORMAT,
        "task": task.name,
        "module": module,
        **({"arguments": arguments} if arguments else {}),
        "source": source,
        "features": {
            name: describe_feature(name, feature, task_steps.eos_after_trim)
            for name, feature in cached_features(task).items()
        },
        "preprocessors": [text for text, _ in steps],
        **({"noise": task_steps.noise} if task_steps.noise else {}),
        "modules": {name: token_cache.source_hash(name) for name in modules},
        "data": {pattern: token_cache.data_hash(pattern) for pattern in data},
        "versions": {name: token_cache.package_version(name) for name in ("python", "seqio", *libraries)},
    }


def describe_evaluation(task: seqio.Task) -> dict:
    """The names of a task's `metrics` and `postprocess` functions; {} if it has no metrics.

    Raises:
      ValueError: a function cannot be imported by name.
    """
    if not task.metric_fns:
        return {}
    postprocess = task.postprocessor
    return {
        "metrics": [describe_function(function, f"metric_fns of task {task.name!r}") for function in task.metric_fns],
        "postprocess": postprocess and describe_function(postprocess, f"postprocess_fn of task {task.name!r}"),
    }


def describe_function(function: Callable, where: str) -> dict:
    """A function, or a functools.partial of one with keyword options, as {"function": "module:qualname", "options"}.

    Raises:
      ValueError: it cannot be imported by that name, or its options are not JSON.
    """
    options: dict[str, Any] = {}
    while isinstance(function, functools.partial):
        if function.args:
            raise ValueError(f"{where}: a partial with positional arguments {function.args}; give them by keyword")
        options = function.keywords | options
        function = function.func
    if consent := [name for name in options if name.startswith(("allow", "trust"))]:
        raise ValueError(
            f"{where}: the option {consent[0]}={options[consent[0]]!r} would be stored in the cache; only the environment or the "
            "caller of the function may allow it (T5X_LIKE_ALLOW_EXECUTION=1), so leave it out"
        )
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    try:
        imported = functools.reduce(getattr, (name or "").split("."), importlib.import_module(module or ""))
    except (ImportError, AttributeError, ValueError):
        imported = None
    if imported is not function:
        raise ValueError(
            f"{where}: {function!r} cannot be imported as {module}:{name}; a cache stores functions by name, so define it "
            "at the top level of a module, and give options by functools.partial"
        )
    try:
        return {"function": f"{module}:{name}", "options": json.loads(json.dumps(options))}
    except TypeError as error:
        raise ValueError(
            f"{where}: options {options} of {name} are not JSON ({error}); use strings and numbers"
        ) from error

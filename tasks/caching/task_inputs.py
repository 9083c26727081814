"""What of a seqio task stands in a token cache: its steps up to the cache placeholder, and all that they depend on."""

import difflib
import functools
import importlib
import inspect
import json
import os
import sys

import seqio

from t5x_like.data.cache import token_cache
from t5x_like.data.cache.tokenizing import is_mask
from t5x_like.data.tokenizers.huggingface import TokenizerVocabulary
from t5x_like.tasks.caching.module_sources import with_imports

# Told apart by version; every other module that defines a task by the hash of its source.
TOLD_APART = {"seqio", *sys.stdlib_module_names}


def import_tasks(name: str, module: str, arguments: dict | None = None) -> None:
    """Imports `module`, which registers tasks; where there are arguments, `module.define(name, **arguments)` does.

    Raises:
      ValueError: arguments that the module does not take.
    """
    imported = importlib.import_module(module)
    if arguments:
        define(imported, name, arguments)


def find_task(name: str, module: str, arguments: dict | None = None) -> seqio.Task:
    """The task `name`, after `import_tasks`.

    Raises:
      ValueError: no such task, with those of similar names; arguments that the module does not take.
    """
    import_tasks(name, module, arguments)
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


def steps_of(task: seqio.Task) -> list:
    """The preprocessors before the cache placeholder; all of them when there is none."""
    steps = list(task.preprocessors)
    places = [i for i, step in enumerate(steps) if isinstance(step, seqio.CacheDatasetPlaceholder)]
    return steps[: places[0]] if places else steps


def vocabulary_of(task: seqio.Task):
    """The vocabulary of a task's tokens, as training reads it."""
    return next(feature.vocabulary.plain for name, feature in task.output_features.items() if not is_mask(name))


def check_vocabularies(task: seqio.Task) -> None:
    """Training needs the vocabulary without TensorFlow, and one for all features; a mask beside them is 0 or 1.

    Raises:
      ValueError: the feature whose vocabulary is another one.
    """
    tokens = {name: feature for name, feature in task.output_features.items() if not is_mask(name)}
    for name in task.output_features.keys() - tokens.keys():
        vocabulary = task.output_features[name].vocabulary
        if not isinstance(vocabulary, seqio.PassThroughVocabulary) or vocabulary.vocab_size != 2:
            raise ValueError(
                f"feature {name!r} of task {task.name!r} is a mask by its name, and has a {type(vocabulary).__name__} of "
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


def described(value) -> tuple[object, set[str]]:
    """A value as JSON that says what it does, and the modules whose source it depends on."""
    if isinstance(value, functools.partial):
        parts = [described(x) for x in (value.func, *value.args, *(x for _, x in sorted(value.keywords.items())))]
        return [text for text, _ in parts] + sorted(value.keywords), set().union(*(names for _, names in parts))
    if callable(value):
        plain = inspect.unwrap(value)
        return getattr(plain, "__qualname__", type(plain).__qualname__), {plain.__module__}
    return repr(value), set()


def source_of(source: seqio.DataSource) -> tuple[object, set[str], list[str]]:
    """What a source reads: as JSON, the modules that it depends on, and patterns of its files, of all splits."""
    if hasattr(source, "inputs"):  # those of t5x_like.tasks.sources.files say it themselves
        inputs = source.inputs()
        parts = [described(x) for x in (type(source), *inputs["functions"])]
        modules = {base.__module__ for base in type(source).__mro__}.union(*(names for _, names in parts))
        return [*(text for text, _ in parts), inputs["options"]], modules, inputs["data"]
    text, modules = described(getattr(source, "_dataset_fn", type(source)))
    given = source._split_to_filepattern.values() if isinstance(source, seqio.FileDataSource) else ()
    return text, modules, [str(p) for one in given for p in ([one] if isinstance(one, str | os.PathLike) else one)]


def feature_of(name: str, feature: seqio.Feature) -> dict:
    """A feature as JSON."""
    return {"vocabulary": "mask" if is_mask(name) else feature.vocabulary.plain.fingerprint, "add_eos": feature.add_eos}


def inputs_of(task: seqio.Task, module: str, arguments: dict | None = None) -> dict:
    """Everything a cache of the task depends on, as JSON: see `token_cache`."""
    source, defining, data = source_of(task.source)
    steps = [described(step) for step in steps_of(task)]
    vocabularies = [feature.vocabulary for feature in task.output_features.values()]
    defining |= {module}.union(*(names for _, names in steps))
    data = sorted({*data, *(pattern for v in vocabularies for pattern in getattr(v, "files", ()))})
    defining |= {type(x).__module__ for v in vocabularies for x in (v, getattr(v, "plain", v))}
    modules = sorted(with_imports(name for name in defining if name.split(".")[0] not in TOLD_APART))
    libraries = ["tokenizers"] if isinstance(vocabulary_of(task), TokenizerVocabulary) else []
    return {
        "format": token_cache.FORMAT,
        "task": task.name,
        **({"arguments": arguments} if arguments else {}),
        "source": source,
        "features": {name: feature_of(name, feature) for name, feature in task.output_features.items()},
        "preprocessors": [text for text, _ in steps],
        "modules": {name: token_cache.source_hash(name) for name in modules},
        "data": {pattern: token_cache.data_hash(pattern) for pattern in data},
        "versions": {name: token_cache.package_version(name) for name in ("python", "seqio", *libraries)},
    }


def evaluation_of(task: seqio.Task) -> dict:
    """How answers are judged, by the names of functions: `metrics` and `postprocess`; {} of a task without metrics.

    Raises:
      ValueError: a function that cannot be found by name.
    """
    if not task.metric_fns:
        return {}
    postprocess = task.postprocessor
    return {
        "metrics": [named(function, f"metric_fns of task {task.name!r}") for function in task.metric_fns],
        "postprocess": postprocess and named(postprocess, f"postprocess_fn of task {task.name!r}"),
    }


def named(function, where: str) -> dict:
    """A function, or a functools.partial of one with keyword options: {"function": "module:qualname", "options"}."""
    options = {}
    while isinstance(function, functools.partial):
        if function.args:
            raise ValueError(f"{where}: a partial with positional arguments {function.args}; give them by keyword")
        function, options = function.func, function.keywords | options
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    try:
        found = functools.reduce(getattr, (name or "").split("."), importlib.import_module(module or ""))
    except (ImportError, AttributeError, ValueError):
        found = None
    if found is not function:
        raise ValueError(
            f"{where}: {function!r} cannot be found again as {module}:{name}; a cache names its functions, so define it at "
            "the top level of a module, and give options by functools.partial"
        )
    try:
        return {"function": f"{module}:{name}", "options": json.loads(json.dumps(options))}
    except TypeError as error:
        raise ValueError(
            f"{where}: options {options} of {name} are not JSON ({error}); give texts and numbers"
        ) from error

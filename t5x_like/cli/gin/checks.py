"""Checks of a complete configuration: every macro is set and read, every value has the type of its parameter."""

import collections.abc
import functools
import inspect
import types
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any

from t5x_like.cli.gin import source
from t5x_like.cli.gin.source import Binding, ConfigError, Macro, Place, Reference, join_scope, suggest

# Macros of T5X's gin files, and what sets the same here.
T5X = {
    "TRAIN_STEPS": "STEPS",
    "TASK_FEATURE_LENGTHS": "LENGTH, or INPUTS_LENGTH and TARGETS_LENGTH",
    "MIXTURE_OR_TASK_NAME": "TASK",
    "MIXTURE_OR_TASK_MODULE": "token_cache.TokenCache.module",
    "DROPOUT_RATE": "DROPOUT",
    "MODEL_DIR": "RUN_DIR",
    "RANDOM_SEED": "SEED",
    "INITIAL_CHECKPOINT_PATH": "INITIAL (runs/finetune.gin)",
    "CHECKPOINT_PATH": "--run_dir and --step",
    "EVAL_PERIOD": "trainer.Evaluation.every",
    "EVAL_STEPS": "trainer.Evaluation.batches",
    "CHECKPOINT_PERIOD": "trainer.Checkpointing.every",
    "EVAL_OUTPUT_DIR": "--out of t5x_like eval",
    "INFER_OUTPUT_DIR": "--output of t5x_like infer",
    "LABEL_SMOOTHING": "lm.LanguageModel.label_smoothing",
    "Z_LOSS": "lm.LanguageModel.z_loss",
}


FREEZE = "t5x_like.parameters:Freeze"
BUILT = {"t5x_like", "jax", "jaxlib", "flax", "optax"}


def check_macros(bindings: Collection[Binding], all_bindings: Collection[Binding], read: Collection[str] = ()) -> None:
    """Raises ConfigError for a macro that is used but not set, contains itself, or is set but not used.

    `all_bindings` include those that later ones replace; a file may set a macro that only they use. `read` are macros that the
    command reads. A packaged file may set macros that nothing uses (VOCAB_SIZE of a task whose model has its own), and so
    may the configuration of a run that was made with it.
    """
    set_here = {binding.macro: binding for binding in bindings if binding.macro}
    used = macros_in(bindings)
    in_files = {*used, *macros_in(all_bindings), *read}
    for name, binding in set_here.items():
        place = binding.place
        if name not in (in_files if place.line else {*used, *read}) and not place.packaged:
            raise_unused(name, place, in_files)
        check_cycle(name, set_here)
    raise_unset({name: place for name, place in used.items() if name not in set_here})


def macros_in(bindings: Collection[Binding]) -> dict[str, Place]:
    """The macros in the values of bindings, with the place of one use."""
    return {
        item.name: binding.place
        for binding in bindings
        for item in source.find_references(binding.value)
        if isinstance(item, Macro) and item.name != source.REQUIRED
    }


def raise_unused(name: str, place: Place, used: Collection[str]) -> None:
    """Raises ConfigError for a macro that nothing uses, with the name that may have been meant."""
    if place.resolved and source.files_that_set(name):
        return
    if name in used:
        raise place.error(f"{name} is not used, because a later value replaces what used it; give only one of them")
    known = f"; T5X's {name} is here: {T5X[name]}" if name in T5X else suggest(name, used)
    raise place.error(f"no gin file uses {name}{known or '; remove it, or add the file that uses it'}")


def without_unused(bindings: Collection[Binding], read: Collection[str]) -> tuple[Binding, ...]:
    """The bindings without the macros that only overwritten bindings used; packaged files may keep theirs, if set."""
    used = {*macros_in(bindings), *read}

    def is_kept(binding: Binding) -> bool:
        unset = Macro(source.REQUIRED) in source.find_references(binding.value)
        return (binding.place.packaged and not unset) or binding.place.resolved

    return tuple(binding for binding in bindings if not binding.macro or binding.macro in used or is_kept(binding))


def check_transform(bindings: Collection[Binding], last: Collection[Binding]) -> None:
    """Raises ConfigError for a file of peft/ whose transform is replaced by a later file, or that replaces a given `Freeze`.

    `last` are the bindings that count. `Freeze` of runs/finetune.gin may be replaced if it freezes nothing.
    """

    def names(binding: Binding) -> list[str]:
        return [item.selector for item in source.find_references(binding.value) if isinstance(item, Reference)]

    for binding in bindings:
        if not is_transform(binding) or binding.place.resolved or FREEZE in names(binding):
            continue
        for other in last:
            if is_transform(other) and names(other) != names(binding):
                raise binding.place.error(
                    f"the transform {', '.join(names(binding))} is replaced by {', '.join(names(other))} of a later file; "
                    "give one file of peft/, after the file of runs/"
                )
    used = [name for binding in last if is_transform(binding) for name in names(binding)]
    for binding in last:
        if used and FREEZE not in used and sets_frozen(binding):
            raise binding.place.error(
                f"{binding.parameter} is not used, because {', '.join(used)} chooses what is trained; leave it out"
            )


def is_transform(binding: Binding) -> bool:
    """Whether a binding is that of trainer.train.transform."""
    return binding.selector.endswith("training.trainer:train") and binding.parameter == "transform"


def sets_frozen(binding: Binding) -> bool:
    """Whether a binding freezes parameters: FROZEN = (...)."""
    given = binding.macro == "FROZEN" or (binding.selector == FREEZE and binding.parameter == "patterns")
    return given and bool(binding.value) and not source.find_references(binding.value)


def check_cycle(name: str, bindings: Mapping[str, Binding]) -> None:
    """Raises ConfigError if the value of a macro contains the macro, also through other macros."""
    queue, seen = [name], set()
    while queue:
        for item in source.find_references(bindings[queue.pop()].value):
            if isinstance(item, Macro) and item.name == name:
                raise bindings[name].place.error(f"the value of {name} contains %{name} itself; give another value")
            if isinstance(item, Macro) and item.name in bindings and item.name not in seen:
                seen.add(item.name)
                queue.append(item.name)


def check_types(bindings: Collection[Binding], targets: Mapping[str, Callable]) -> None:
    """Raises ConfigError for a value that its parameter's annotation excludes, such as a word where a number is needed."""
    macros = {binding.macro: binding for binding in bindings if binding.macro}
    for binding in bindings:
        origin = binding
        while isinstance(origin.value, Macro) and origin.value.name in macros:
            origin = macros[origin.value.name]
        annotation = annotations(targets[binding.selector]).get(binding.parameter) if binding.selector else None
        if annotation is not None and not fits(origin.value, annotation.annotation):
            short = ".".join(binding.selector.replace(":", ".").split(".")[-2:])
            needed = inspect.formatannotation(annotation.annotation)
            name = f"{origin.macro}=" if origin.macro else ""
            raise origin.place.error(f"{name}{origin.value!r}: {short}.{binding.parameter} must be {needed}")


@functools.cache
def annotations(target: Callable) -> Mapping[str, inspect.Parameter]:
    """The parameters of a function or class with evaluated annotations; {} if they cannot be evaluated."""
    try:
        return inspect.signature(target, eval_str=True).parameters
    except (TypeError, ValueError, NameError, AttributeError):
        return {}


def fits(value: Any, annotation: Any) -> bool:
    """Whether a literal may have the type `annotation`; True for references, and for types that it does not know."""
    if isinstance(value, Reference | Macro):
        return True
    kind, inner = typing.get_origin(annotation) or annotation, typing.get_args(annotation)
    if kind in (typing.Union, types.UnionType):
        return any(fits(value, option) for option in inner)
    if kind in (None, types.NoneType):
        return value is None
    if kind in (bool, str):
        return isinstance(value, kind)
    if kind in (int, float):
        return isinstance(value, int | kind) and not isinstance(value, bool)
    if kind is collections.abc.Callable:
        return False
    if kind is tuple and inner and inner[-1] is not Ellipsis:
        return isinstance(value, list | tuple) and len(value) == len(inner) and all(map(fits, value, inner))
    if kind in (tuple, list, collections.abc.Sequence):
        return isinstance(value, list | tuple) and all(fits(item, inner[0]) for item in value if inner)
    if kind in (dict, collections.abc.Mapping):
        return isinstance(value, dict)
    # An object of these packages, such as a mesh, is built by a reference; no number or text is one.
    is_built = isinstance(kind, type) and kind.__module__.partition(".")[0] in BUILT
    return not is_built or isinstance(value, list | tuple | dict)


def check_required(bindings: Collection[Binding]) -> None:
    """Raises ConfigError with every parameter and macro that is still %gin.REQUIRED, and how to set it."""
    unset = {}
    for binding in bindings:
        if Macro(source.REQUIRED) in source.find_references(binding.value):
            short = ".".join(binding.selector.replace(":", ".").split(".")[-2:])
            unset[binding.macro or f"{join_scope(binding.scope, short)}.{binding.parameter}"] = binding.place
    raise_unset(unset)


def raise_unset(unset: dict[str, Place]) -> None:
    """Raises ConfigError if there are unset names, with the ways to set each of them."""
    lines = []
    for name, place in unset.items():
        files = source.files_that_set(name)
        remedy = f", or add a file that sets it ({', '.join(files[:6])})" if files else ""
        lines.append(f"  {name} ({place}): give --gin.{name}=VALUE{remedy}")
    if lines:
        raise ConfigError("\n".join(["these are not set:", *lines]))

"""What the configuration of a run may name: gin files are code, and a run directory may come from elsewhere.

Opening a run may import this package and call the parts of it that build models, rows and settings. Other modules, and the
parts that write files or start programs, need the consent of the caller: --module or $T5X_LIKE_TRUST.
"""

import os
import pkgutil
from collections.abc import Collection, Sequence
from typing import Any

import t5x_like
from t5x_like.cli.gin.source import Binding, Macro, Place

VARIABLE = "T5X_LIKE_TRUST"
# Not t5x_like itself: in a checkout everything beside the package, such as a run's folder, can be imported as a part of it.
PARTS = {*(part.name for part in pkgutil.iter_modules(t5x_like.__path__[:1])), "models", "tasks", "gin_configs"}
IMPORTED = (*(f"t5x_like.{part}" for part in sorted(PARTS)), "jax.nn", "jax.numpy", "flax.linen")
# Modules that neither write nor start anything.
PACKAGES = tuple(
    f"t5x_like.{name}"
    for name in (
        "models",
        "objectives",
        "optimizers",
        "decoding",
        "data.rows",
        "data.noise",
        "data.mixing",
        "data.cache.data_sets",
        "data.tokenizers.named",
        "partitioning",
        "precision",
        "parameters",
        "peft",
        "training.references",
        "evaluation.task_evaluation",
        "scaling.expected",
        "scaling.mup.rules",
    )
)
LIBRARIES = ("jax._src.nn", "jax.nn", "flax.linen")
TRAIN = "t5x_like.training.trainer:train"  # its parameters are read; no value may call it
NAMES = {
    TRAIN,
    "t5x_like.training.trainer:Evaluation",
    "t5x_like.training.trainer:Checkpointing",
    "t5x_like.training.monitor:Monitor",
    "t5x_like.training.monitor:Log",
    "t5x_like.training.monitor:Skip",
    "t5x_like.training.monitor:RollBack",
    "t5x_like.checkpoints.restore:InitializeFrom",
    "t5x_like.data.cache.token_cache:TokenCache",
}


def consented(modules: Sequence[str] = ()) -> tuple[str, ...]:
    """The modules that the caller allows: these, and those of $T5X_LIKE_TRUST."""
    named = [*modules, *os.environ.get(VARIABLE, "").split(",")]
    return tuple(name.strip() for name in named if name.strip())


def check_import(module: str, place: Place) -> None:
    """Raises ConfigError if a run's configuration imports a module that is not allowed; nothing is imported before."""
    if place.allowed is not None and module != "t5x_like" and not is_within(module, (*IMPORTED, *place.allowed)):
        raise refusal(place, f"imports {module}, which is not part of t5x_like", module)


def check_target(target: Any, full: str, place: Place, is_reference: bool) -> None:
    """Raises ConfigError if a run's configuration names a function or class that is not allowed."""
    if place.allowed is None:
        return
    module, _, name = full.partition(":")
    defined = getattr(target, "__module__", None) or ""
    if is_within(module, place.allowed) or is_within(defined, place.allowed):
        return
    # In jax.numpy, load runs pickles; types and compiled functions are harmless.
    is_array_function = defined == "jax.numpy" and (isinstance(target, type) or hasattr(target, "lower"))
    is_setting = is_within(defined, (*PACKAGES, *LIBRARIES)) or f"{defined}:{name}" in NAMES
    is_call = is_reference and f"{defined}:{name}" == TRAIN
    if "." in name or is_call or not (is_setting or is_array_function):
        raise refusal(place, f"names {module}.{name}, which does more than build a model or a setting", module)


def check_task_modules(bindings: Collection[Binding]) -> None:
    """Raises ConfigError if a run's tasks are defined in a module that is not allowed: building their caches imports it."""
    macros = {binding.macro: binding for binding in bindings if binding.macro}
    for binding in bindings:
        if binding.selector.endswith((":TokenCache", ":DataSets")) and binding.parameter == "module":
            while isinstance(binding.value, Macro):
                binding = macros[binding.value.name]
            allowed = binding.place.allowed
            module = str(binding.value)  # a reference is none of the allowed modules
            if allowed is not None and not is_within(module, ("t5x_like.tasks", *allowed)):
                raise refusal(binding.place, f"has tasks of the module {module}", module)


def refusal(place: Place, reason: str, module: str) -> Exception:
    """The error for a run's configuration, with the way to allow `module`."""
    return place.error(f"this run {reason}; gin files are code. If you trust the run, set {VARIABLE}={module}")


def is_within(module: str, names: Sequence[str]) -> bool:
    """Whether a module is one of `names` or inside one."""
    return any(module == name or module.startswith(f"{name}.") for name in names)

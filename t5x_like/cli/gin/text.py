"""Writes a model as gin text: one scope per module, named by its place in the tree, with the fields that are not defaults."""

import dataclasses
import sys
from collections.abc import Callable, Iterator
from typing import Any

from flax import linen as nn

from t5x_like.cli.gin import runtime
from t5x_like.cli.gin.source import Macro, Reference

# Public modules of functions and classes, by the module that defines them.
PUBLIC = {"jax._src.nn.functions": "jax.nn", "jax._src.numpy.scalar_types": "jax.numpy"}


def format_model(model: nn.Module, transform: Any = None) -> str:
    """Gin text with the macro MODEL and `trainer.train.model`, which gives the same model when parsed.

    A transform of its parameters is written as `trainer.train.transform`.

    Raises:
      ValueError: the value of a field cannot be written as gin.
    """
    bindings: dict[str, dict[str, Any]] = {}
    modules = {"t5x_like.training.trainer"}
    reference = module_reference(model, "", bindings, modules)
    tuned = None if transform is None else transform_reference(transform, bindings, modules)
    lines = ["from __gin__ import dynamic_registration", ""]
    lines += [runtime.import_text(name, name.rpartition(".")[2]) for name in sorted(modules)]
    lines += ["", f"MODEL = {reference!r}", "", "trainer.train.model = %MODEL"]
    lines += [] if tuned is None else [f"trainer.train.transform = {tuned!r}"]
    for selector, fields in bindings.items():
        lines += ["", f"{selector}:", *(f"  {name} = {value!r}" for name, value in fields.items())]
    return "\n".join(lines) + "\n"


def transform_reference(transform: Any, bindings: dict[str, dict[str, Any]], modules: set[str]) -> Reference:
    """A reference that builds a transform; one that needs the model takes the macro."""
    needs_model = getattr(transform, "model", None) is not None
    plain = dataclasses.replace(transform, model=None) if needs_model else transform
    reference = module_reference(plain, "transform", bindings, modules)
    if needs_model:
        bindings.setdefault(f"transform/{reference.selector}", {})["model"] = Macro("MODEL")
    return reference


def module_reference(module: Any, place: str, bindings: dict[str, dict[str, Any]], modules: set[str]) -> Reference:
    """A reference that builds the module in the scope `place`; adds its fields to `bindings`."""
    selector = selector_of(type(module), modules)
    fields = {}
    for field in non_default_fields(module):
        scope = f"{place}_{field}" if place else field
        fields[field] = to_gin_value(getattr(module, field), scope, bindings, modules)
    if fields:
        bindings[f"{place}/{selector}" if place else selector] = fields
    return Reference(place, selector, True)


def non_default_fields(module: Any) -> Iterator[str]:
    """Yields the fields whose value is not the default, in order."""
    for field in dataclasses.fields(module):
        if not field.init or field.name in ("parent", "name"):
            continue
        default = field.default_factory() if callable(field.default_factory) else field.default
        value = getattr(module, field.name)
        if value is not default and not (isinstance(value, int | float | str | tuple) and value == default):
            yield field.name


def to_gin_value(value: Any, place: str, bindings: dict[str, dict[str, Any]], modules: set[str]) -> Any:
    """Converts a value to one that gin can write.

    Raises:
      ValueError: gin cannot write it.
    """
    if isinstance(value, list | tuple):
        parts = [to_gin_value(x, f"{place}_{i}", bindings, modules) for i, x in enumerate(value)]
        return type(value)(parts)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return module_reference(value, place, bindings, modules)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if callable(value):
        return Reference("", selector_of(value, modules), False)
    raise ValueError(f"{place} is {value!r}, which gin cannot write")


def selector_of(target: Callable, modules: set[str]) -> str:
    """`module.name` of a function or class; adds its module to `modules`.

    Raises:
      ValueError: it cannot be imported by name.
    """
    module = PUBLIC.get(target.__module__, target.__module__)
    name = getattr(target, "__name__", None)
    if name is None or not hasattr(sys.modules.get(module), name):
        raise ValueError(f"{target!r} cannot be imported by name, so gin cannot refer to it")
    modules.add(module)
    return f"{module.rpartition('.')[2]}.{name}"

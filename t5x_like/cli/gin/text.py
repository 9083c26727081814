"""A model as gin text: every module in a scope of its own, named by its place in the tree, fields that differ from default."""

import dataclasses
import sys
from collections.abc import Callable, Iterator
from typing import Any

from flax import linen as nn

from t5x_like.cli.gin import runtime
from t5x_like.cli.gin.source import Reference

# Where the functions and classes of other packages are imported from, by the module that defines them.
PUBLIC = {"jax._src.nn.functions": "jax.nn", "jax._src.numpy.scalar_types": "jax.numpy"}


def of_model(model: nn.Module) -> str:
    """A gin text with the macro MODEL and `trainer.train.model`, which reads back as this very model.

    Raises:
      ValueError: a field holds something that gin cannot write.
    """
    bindings, modules = {}, {"t5x_like.training.trainer"}
    reference = module_reference(model, "", bindings, modules)
    lines = ["from __gin__ import dynamic_registration", ""]
    lines += [runtime.import_text(name, name.rpartition(".")[2]) for name in sorted(modules)]
    lines += ["", f"MODEL = {reference!r}", "", "trainer.train.model = %MODEL"]
    for selector, fields in bindings.items():
        lines += ["", f"{selector}:", *(f"  {name} = {value!r}" for name, value in fields.items())]
    return "\n".join(lines) + "\n"


def module_reference(module: Any, place: str, bindings: dict[str, dict[str, Any]], modules: set[str]) -> Reference:
    """A call of the module's class in the scope `place`; its fields are added to `bindings`."""
    selector = selector_of(type(module), modules)
    fields = {}
    for field in changed(module):
        inside = f"{place}_{field}" if place else field
        fields[field] = written(getattr(module, field), inside, bindings, modules)
    if fields:
        bindings[f"{place}/{selector}" if place else selector] = fields
    return Reference(place, selector, True)


def changed(module: Any) -> Iterator[str]:
    """The fields that do not have their default, in their order."""
    for field in dataclasses.fields(module):
        if not field.init or field.name in ("parent", "name"):
            continue
        default = field.default_factory() if callable(field.default_factory) else field.default
        value = getattr(module, field.name)
        if value is not default and not (isinstance(value, int | float | str | tuple) and value == default):
            yield field.name


def written(value: Any, place: str, bindings: dict[str, dict[str, Any]], modules: set[str]) -> Any:
    """A value as gin writes it."""
    if isinstance(value, list | tuple):
        parts = [written(x, f"{place}_{i}", bindings, modules) for i, x in enumerate(value)]
        return type(value)(parts)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return module_reference(value, place, bindings, modules)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if callable(value):
        return Reference("", selector_of(value, modules), False)
    raise ValueError(f"{place} is {value!r}, which gin cannot write")


def selector_of(target: Callable, modules: set[str]) -> str:
    """`module.name` of a function or class, its module added to those to import.

    Raises:
      ValueError: it cannot be imported by its name.
    """
    module = PUBLIC.get(target.__module__, target.__module__)
    name = getattr(target, "__name__", None)
    if name is None or not hasattr(sys.modules.get(module), name):
        raise ValueError(f"{target!r} has no name that gin could import it by")
    modules.add(module)
    return f"{module.rpartition('.')[2]}.{name}"

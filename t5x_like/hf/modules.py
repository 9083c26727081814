"""Trees of modules: comparing, stacking and describing them, for the builders of all families."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from flax import linen as nn

from t5x_like.models import blocks, stack

# Fields that change how a model is computed, initialised or regularised, but not its function of the parameters.
IGNORED_FIELDS = {
    "parent",
    "name",
    "scan",
    "remat",
    "dropout",
    "output_dropout",
    "kernel",
    "kernel_init",
    "query_init",
    "out_init",
    "table_init",
    "mask_init",
    "bias_init",
    "load_balance_weight",
    "z_weight",
    "axes",
    "dispatch",  # dispatch methods differ in speed, and in the tokens dropped if an expert is full
}


def stack_layers(layers: Sequence[nn.Module], **options: Any) -> stack.Stack:
    """Returns a Stack of layers: the smallest repeating pattern, with a tail for an incomplete repetition."""
    count = len(layers)
    period = next(
        p for p in range(1, count + 1) if all(is_equivalent(layers[i], layers[i - p]) for i in range(p, count))
    )
    if period == 1:
        return stack.Stack(block=layers[0], repeats=count, **options)
    tail = blocks.Pattern(list(layers[-(count % period) :])) if count % period else None
    return stack.Stack(blocks.Pattern(list(layers[:period])), repeats=count // period, tail=tail, **options)


def unstack_layers(tower: stack.Stack) -> list[nn.Module]:
    """Returns the layers of a stack in order, with patterns flattened."""

    def inner(block: Any) -> list[nn.Module]:
        return [x for b in block.blocks for x in inner(b)] if class_name(block) == "Pattern" else [block]

    return inner(tower.block) * tower.repeats + ([] if tower.tail is None else inner(tower.tail))


def class_name(x: Any) -> str:
    """The name of an object's class. Classes are compared by name, because gin makes subclasses of the same name."""
    return type(x).__name__


def is_equivalent(a: Any, b: Any) -> bool:
    """Whether two modules compute the same function of the same parameters."""
    return next(find_differences(a, b), None) is None


def find_differences(a: Any, b: Any, where: str = "model") -> Iterator[str]:
    """Yields the differences between the functions that two trees of modules compute."""
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from find_differences(x, y, f"{where}[{i}]")
    elif dataclasses.is_dataclass(a) and dataclasses.is_dataclass(b) and class_name(a) == class_name(b):
        for field in dataclasses.fields(a):
            if field.name not in IGNORED_FIELDS:
                x, y = resolve_default(a, field.name), resolve_default(b, field.name)
                yield from find_differences(x, y, f"{where}.{field.name}")
    elif not is_equal(a, b):
        yield f"{where} is {format_value(a)} and {format_value(b)}"


def resolve_default(module: Any, field: str) -> Any:
    """Returns a field's value, with the module's own default in place of None."""
    value = getattr(module, field)
    if value is not None or not hasattr(module, "head_dim"):
        return value
    defaults = {"num_kv_heads": "num_heads", "out_bias": "use_bias"}
    if field == "scale":
        return module.head_dim**-0.5
    return getattr(module, defaults[field]) if field in defaults else None


def is_equal(a: Any, b: Any) -> bool:
    """Whether two values are equal; functions are compared by name."""
    names = {getattr(a, "__name__", ""), getattr(b, "__name__", "")}
    if callable(a) and callable(b) and "" not in names:
        return len(names) == 1
    return type(a) is type(b) and a == b


def format_value(x: Any) -> str:
    """Returns a field's value as text for a message."""
    return class_name(x) if isinstance(x, nn.Module) else getattr(x, "__name__", repr(x))


def get_path(model: Any, path: str) -> Any:
    """Returns the value at a dotted path of fields; `layers` are the layers of a stack, with patterns flattened.

    Raises:
      AttributeError, IndexError: the path does not exist.
    """
    for part in path.split("."):
        if part == "layers":
            model = unstack_layers(model)
        elif part.isdigit():
            model = model[int(part)]
        else:
            model = getattr(model, part)
    return model


Description = dict[
    str, str | Callable[[nn.Module], Any]
]  # field of config.json -> path in the model, or a function of it
OMIT = object()  # value of a field that is left out of config.json


def describe_model(model: nn.Module, fields: Description) -> dict[str, Any]:
    """Returns the fields of a config.json, each read at a path of the model or computed from it."""
    values = {name: get_path(model, how) if isinstance(how, str) else how(model) for name, how in fields.items()}
    return {name: value for name, value in values.items() if value is not OMIT}


def constant(value: Any) -> Callable[[nn.Module], Any]:
    """Returns a function that gives the same field value for every model."""
    return lambda model: value

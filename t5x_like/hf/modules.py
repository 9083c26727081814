"""Trees of modules compared and put together: what every family's builder needs."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from flax import linen as nn

from t5x_like.models import blocks, stack

# Fields that change how a model is computed, initialised or regularised, but not what it computes from its parameters.
NO_MATHEMATICS = {
    "parent",
    "name",
    "scan",
    "remat",
    "dropout",
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
    "dispatch",  # ways to bring tokens to experts differ in speed, and in what is dropped where an expert is full
}


def stacked(layers: Sequence[nn.Module], **options: Any) -> stack.Stack:
    """The stack of these layers, as the smallest pattern that repeats, with a tail for what does not fill a repetition."""
    count = len(layers)
    period = next(p for p in range(1, count + 1) if all(alike(layers[i], layers[i - p]) for i in range(p, count)))
    if period == 1:
        return stack.Stack(block=layers[0], repeats=count, **options)
    tail = blocks.Pattern(list(layers[-(count % period) :])) if count % period else None
    return stack.Stack(blocks.Pattern(list(layers[:period])), repeats=count // period, tail=tail, **options)


def unstacked(tower: stack.Stack) -> list[nn.Module]:
    """The layers of a stack, in order, patterns taken apart."""

    def inner(block):
        return [x for b in block.blocks for x in inner(b)] if kind(block) == "Pattern" else [block]

    return inner(tower.block) * tower.repeats + ([] if tower.tail is None else inner(tower.tail))


def kind(x: Any) -> str:
    """The name of a module's class; gin makes subclasses of the same name."""
    return type(x).__name__


def alike(a: Any, b: Any) -> bool:
    """Whether two modules compute the same function of the same parameters."""
    return next(differences(a, b), None) is None


def differences(a: Any, b: Any, where: str = "model") -> Iterator[str]:
    """Where two trees of modules differ in what they compute."""
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from differences(x, y, f"{where}[{i}]")
    elif dataclasses.is_dataclass(a) and dataclasses.is_dataclass(b) and kind(a) == kind(b):
        for field in dataclasses.fields(a):
            if field.name not in NO_MATHEMATICS:
                x, y = settled(a, field.name), settled(b, field.name)
                yield from differences(x, y, f"{where}.{field.name}")
    elif not equal(a, b):
        yield f"{where} is {shown(a)}, and {shown(b)}"


def settled(module: Any, field: str) -> Any:
    """A field's value, or what the module takes for None there."""
    value = getattr(module, field)
    if value is not None or not hasattr(module, "head_dim"):
        return value
    defaults = {"num_kv_heads": "num_heads", "out_bias": "use_bias"}
    if field == "scale":
        return module.head_dim**-0.5
    return getattr(module, defaults[field]) if field in defaults else None


def equal(a: Any, b: Any) -> bool:
    names = {getattr(a, "__name__", ""), getattr(b, "__name__", "")}
    if callable(a) and callable(b) and "" not in names:
        return len(names) == 1
    return type(a) is type(b) and a == b


def shown(x: Any) -> str:
    return kind(x) if isinstance(x, nn.Module) else getattr(x, "__name__", repr(x))


def at(model: Any, path: str) -> Any:
    """The value at a dotted path of fields; `layers.0` are the layers of a stack, its patterns taken apart.

    Raises:
      AttributeError, IndexError: there is none.
    """
    for part in path.split("."):
        if part == "layers":
            model = unstacked(model)
        elif part.isdigit():
            model = model[int(part)]
        else:
            model = getattr(model, part)
    return model


Describe = dict[str, str | Callable[[nn.Module], Any]]
OMIT = object()  # a described field that is left out of the config.json


def described(model: nn.Module, fields: Describe) -> dict[str, Any]:
    """The fields of a config.json: each read at a path of the model, or worked out."""
    values = {name: at(model, how) if isinstance(how, str) else how(model) for name, how in fields.items()}
    return {name: value for name, value in values.items() if value is not OMIT}


def constant(value: Any) -> Callable[[nn.Module], Any]:
    """A described field that is the same in every model of a family."""
    return lambda model: value

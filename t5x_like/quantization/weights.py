"""Weight-only quantization: integers with scales take the place of arrays in a tree of parameters, and models multiply by them.

Of a kernel each output channel has a scale, of a table each row. Norms, biases, routers and tables of positions stay as they are.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from t5x_like import partitioning, prompt_batches
from t5x_like.models import quantized
from t5x_like.quantization import formats
from t5x_like.types import Model, Params

FUNCTIONS: Mapping[str, Callable] = {"int8": quantized.to_int8}  # (array, axes that share a scale) -> quantized array
STACKED = ("layers", "expert")  # axes that count independent weights
KEPT = ("position", "router")  # axes of weights that are few and sensitive


def quantize(model: Model, params: Params, name: str = "int8") -> Params:
    """The parameters of a model with quantized weights; each is split over devices as it was.

    Raises:
      ValueError: there is no such format.
    """
    formats.check("quantization", name, formats.WEIGHTS)
    batch = prompt_batches.one_token(model.sides)
    boxed = jax.eval_shape(lambda key: model.init(key, batch), jax.random.key(0))["params"]
    return jax.tree.map(
        lambda box, x: quantize_leaf(FUNCTIONS[name], box, x), boxed, params, is_leaf=partitioning.is_boxed
    )


def dequantize(params: Params) -> Params:
    """The parameters as arrays, which are those that a model with the quantized ones computes with."""
    return jax.tree.map(quantized.dequantize, params, is_leaf=lambda x: isinstance(x, quantized.Int8))


def size_in_bytes(tree: Any) -> int:
    """The bytes of a tree's arrays, or of shapes."""
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def quantize_leaf(function: Callable, box: Any, x: jax.Array) -> Any:
    """A quantized weight, or the parameter as it is."""
    axes = shared_axes(box.names) if partitioning.is_boxed(box) else ()
    if not axes:
        return x
    sharding = x.sharding
    if not isinstance(sharding, NamedSharding):
        return jax.jit(function, static_argnums=1)(x, axes)
    like = jax.eval_shape(lambda x: function(x, axes), x)
    spec = [*sharding.spec, *[None] * (x.ndim - len(sharding.spec))]

    def place(part: jax.ShapeDtypeStruct) -> NamedSharding:
        kept = [None if i in axes and part.shape[i] == 1 else names for i, names in enumerate(spec)]
        return NamedSharding(sharding.mesh, PartitionSpec(*kept))

    return jax.jit(function, static_argnums=1, out_shardings=jax.tree.map(place, like))(x, axes)


def shared_axes(names: Sequence[str]) -> tuple[int, ...]:
    """The axes of a parameter along which weights share a scale, from its logical axes; () if it is not quantized."""
    own = [i for i, name in enumerate(names) if name not in STACKED]
    axes = [names[i] for i in own]
    if len(axes) < 2 or "embed" not in axes or set(axes) & set(KEPT):
        return ()
    if axes == ["vocab", "embed"]:
        return (own[1],)
    # A kernel reads the model's width, or all dims but its last one.
    return (own[0],) if axes[0] == "embed" else tuple(own[:-1])

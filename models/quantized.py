"""Arrays that are stored as 8-bit integers with scales: weights, and keys and values of the decoding cache.

In a tree of parameters an `Int8` may take the place of a weight: the modules convert it when they multiply by it.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from t5x_like.models.nf4 import Nf4

LARGEST = 127  # -128 is not used, so that the values are symmetric
# Elements of a weight that `by_blocks` converts at a time: 256 KiB of float32, which stay in a CPU's cache.
BLOCK = 2**16


class Int8(struct.PyTreeNode):
    """The array values * scales. Scales are float32 and have size 1 along the axes whose elements share one.

    Attributes:
      dtype: of the array that it stands for.
    """

    values: jax.Array
    scales: jax.Array
    dtype: Any = struct.field(pytree_node=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array."""
        return self.values.shape

    def astype(self, dtype: Any) -> jax.Array:
        """The array itself, in a dtype."""
        return (self.values.astype(jnp.float32) * self.scales).astype(dtype)


def to_int8(x: jax.Array, axes: int | Sequence[int]) -> Int8:
    """Rounds x to multiples of a scale, the largest absolute value along `axes` / 127: the error is at most half a scale."""
    x32 = x.astype(jnp.float32)
    scales = jnp.max(jnp.abs(x32), axis=axes, keepdims=True) / LARGEST
    values = jnp.round(x32 / jnp.where(scales > 0, scales, 1.0)).astype(jnp.int8)
    return Int8(values, scales, x.dtype)


def vectors_to_int8(x: jax.Array) -> Int8:
    """`to_int8` with a scale per vector along the last axis."""
    return to_int8(x, -1)


def dequantize(x: Any) -> jax.Array:
    """The array that an `Int8` or `Nf4` stands for; other arrays are returned as they are."""
    return x.astype(x.dtype) if isinstance(x, Int8 | Nf4) else x


def tensordot(x: jax.Array, weight: jax.Array | Int8 | Nf4, inputs: int) -> jax.Array:
    """`jnp.tensordot` over the last `inputs` dims of x and the first ones of the weight, in x's dtype.

    The backward pass converts an `Nf4` again, which is frozen: its array is not kept for it.
    """
    if isinstance(weight, Nf4):
        return jax.checkpoint(lambda x, weight: jnp.tensordot(x, weight.astype(x.dtype), inputs))(x, weight)
    if not isinstance(weight, Int8) or not on_one_cpu():
        return jnp.tensordot(x, weight.astype(x.dtype), inputs)
    matrix = jax.tree.map(lambda w: w.reshape(math.prod(w.shape[:inputs]), -1), weight)
    y = by_blocks(lambda w_DF: x.reshape(-1, w_DF.shape[0]) @ w_DF, matrix, x.dtype, 1)
    return y.reshape(*x.shape[: x.ndim - inputs], *weight.shape[inputs:])


def by_blocks(product: Callable[[jax.Array], jax.Array], weight: Int8, dtype: Any, axis: int) -> jax.Array:
    """Returns product(the weight in `dtype`), where the product's last axis is `axis` of the weight.

    On one CPU, blocks along `axis` are converted in a loop, for XLA:CPU would convert all weights of a program before their
    products, each to an array of its own. Compilers for accelerators fuse a conversion into its product.
    """
    length = weight.shape[axis]
    size = min(length, max(1, BLOCK * length // math.prod(weight.shape)))
    if size == length or not on_one_cpu():
        return product(weight.astype(dtype))

    def multiply(start: jax.Array | int) -> jax.Array:
        block = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, size, axis), weight)
        return product(block.astype(dtype))

    def step(i: jax.Array, y: jax.Array) -> jax.Array:
        start = jnp.minimum(i * size, length - size)  # the last block may overlap the one before
        return jax.lax.dynamic_update_slice_in_dim(y, multiply(start), start, y.ndim - 1)

    like = jax.eval_shape(lambda: multiply(0))
    return jax.lax.fori_loop(0, -(-length // size), step, jnp.zeros((*like.shape[:-1], length), like.dtype))


def on_one_cpu() -> bool:
    """Whether the program is for one CPU device."""
    mesh = jax.sharding.get_abstract_mesh()
    device = mesh.abstract_device
    return (device.platform if device else jax.default_backend()) == "cpu" and mesh.size <= 1

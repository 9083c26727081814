"""Weights that are computed from a frozen one and a few trained numbers: low-rank updates and scales of features.

In a tree of parameters such a node may take the place of a kernel or table. Modules multiply by its parts: x W + (x A) B needs
neither the sum W + A B nor, for the gradients of A and B, the gradient of W, which costs as much as the product itself.
`astype` gives the weight as one array.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from t5x_like.models.nf4 import Nf4
from t5x_like.models.quantized import dequantize, tensordot


class Adapted(struct.PyTreeNode):
    """A weight with the shape and dtype of a frozen `kernel` [*stacked, *inputs, *outputs]: an array, `Int8` or `Nf4`."""

    kernel: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weight."""
        return self.kernel.shape

    @property
    def dtype(self) -> Any:
        """The dtype of the frozen kernel."""
        return self.kernel.dtype


class LowRank(Adapted):
    """The weight V = kernel + scale * a b (LoRA, Hu et al. 2021), or with a magnitude m, m * V / |V| (DoRA, Liu et al. 2024).

    |V| is the norm over the inputs of each output, and a constant of the gradient (section 4.3 of the paper).

    Attributes:
      a: [*stacked, *inputs, rank]. b: [*stacked, rank, *outputs].
      magnitude: [*stacked, *outputs], or None.
      inputs: the number of input dims; a table [V, D] has one.
      scale: the factor of the product.
      dropout: the rate at which `Dense` drops the elements that a reads, in training.
    """

    a: jax.Array
    b: jax.Array
    magnitude: jax.Array | None
    inputs: int = struct.field(pytree_node=False)
    scale: float = struct.field(pytree_node=False)
    dropout: float = struct.field(pytree_node=False, default=0.0)

    def astype(self, dtype: Any) -> jax.Array:
        """The weight itself, computed in float32 or more, in a dtype."""
        wide = jnp.promote_types(self.dtype, jnp.float32)
        weight = self._sum(wide)
        if self.magnitude is not None:
            weight = weight * jnp.expand_dims(self._ratio(weight), self._input_dims)
        return weight.astype(dtype)

    def ratio(self) -> jax.Array:
        """m / |V|, [*stacked, *outputs] in float32 or more."""
        return self._ratio(self._sum(jnp.promote_types(self.dtype, jnp.float32)))

    @property
    def _input_dims(self) -> tuple[int, ...]:
        start = self.a.ndim - 1 - self.inputs
        return tuple(range(start, start + self.inputs))

    def _ratio(self, weight: jax.Array) -> jax.Array:
        norms = column_norms(jax.lax.stop_gradient(weight), self._input_dims)
        return jnp.asarray(self.magnitude, weight.dtype) / norms

    def _sum(self, dtype: Any) -> jax.Array:
        """V."""
        stacked = tuple(range(self.a.ndim - 1 - self.inputs))
        dims = (((self.a.ndim - 1,), (len(stacked),)), (stacked, stacked))
        update = jax.lax.dot_general(self.a.astype(dtype), self.b.astype(dtype), dims)
        return dequantize(self.kernel).astype(dtype) + self.scale * update


class Scaled(Adapted):
    """A kernel whose inputs or outputs are multiplied by learned numbers ((IA)3, Liu et al. 2022).

    Attributes:
      factors: the dims of the kernel, of size 1 where elements share a factor: the outputs if `of_inputs`, else the inputs.
    """

    factors: jax.Array
    of_inputs: bool = struct.field(pytree_node=False)

    def astype(self, dtype: Any) -> jax.Array:
        """The kernel itself, computed in float32 or more, in a dtype."""
        wide = jnp.promote_types(self.dtype, jnp.float32)
        return (dequantize(self.kernel).astype(wide) * self.factors.astype(wide)).astype(dtype)


def param(module: nn.Module, name: str, init: Callable, shape: tuple[int, ...]) -> Any:
    """`module.param`, which may be a node whose arrays have other shapes than the weight: an `Nf4`, or a node with one.

    Raises:
      ValueError: the node has another shape.
    """
    found: Any = module.get_variable("params", name) if module.has_variable("params", name) else None
    if not isinstance(getattr(found, "kernel", found), Nf4):
        return module.param(name, init, shape)
    if tuple(found.shape) != tuple(shape):
        raise ValueError(f"{name} has the shape {found.shape}, the module {tuple(shape)}")
    return found


def column_norms(weight: jax.Array, inputs: tuple[int, ...]) -> jax.Array:
    """The norms over the input dims: of the weights of each output."""
    return jnp.sqrt(jnp.sum(jnp.square(weight), axis=inputs))


def is_computed(x: Any) -> bool:
    """Whether a node of a tree of parameters stands for an array: one of this module, or an `Nf4`."""
    return isinstance(x, Adapted | Nf4)


def product(x: jax.Array, weight: Any, inputs: int, key: jax.Array | None = None) -> jax.Array:
    """The product of the last `inputs` dims of x with the first ones of a weight of any kind, in x's dtype.

    `key` is that of the dropout of a `LowRank`; None drops nothing.
    """
    if isinstance(weight, Scaled):
        own = weight.shape[:inputs] if weight.of_inputs else weight.shape[inputs:]
        factors = weight.factors.reshape(own).astype(x.dtype)
        if weight.of_inputs:
            return tensordot(x * factors, weight.kernel, inputs)
        return tensordot(x, weight.kernel, inputs) * factors
    if not isinstance(weight, LowRank):
        return tensordot(x, weight, inputs)
    read = x if key is None or not weight.dropout else drop(x, weight.dropout, key)
    y = tensordot(x, weight.kernel, inputs) + weight.scale * tensordot(tensordot(read, weight.a, inputs), weight.b, 1)
    return y if weight.magnitude is None else y * weight.ratio().astype(y.dtype)


def lookup(table_VD: Any, take: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """The rows of a table of any kind; `take` returns those of an array."""
    if not isinstance(table_VD, LowRank):
        return dequantize(jax.tree.map(take, table_VD))
    x = lookup(table_VD.kernel, take)
    return x + table_VD.scale * jnp.matmul(take(table_VD.a).astype(x.dtype), table_VD.b.astype(x.dtype))


def transposed_product(product: Callable[[jax.Array, Any], jax.Array], x: jax.Array, table_VD: Any) -> jax.Array:
    """product(x, table) = x table^T for a table of any kind; `product` computes it for an array or `Int8`."""
    if not isinstance(table_VD, LowRank):
        return product(x, table_VD)
    low = jnp.einsum("...D,RD->...R", x, table_VD.b.astype(x.dtype))
    return product(x, table_VD.kernel) + table_VD.scale * product(low, table_VD.a)


def drop(x: jax.Array, rate: float, key: jax.Array) -> jax.Array:
    """Dropout: elements are 0 with probability `rate`, and divided by 1 - rate otherwise."""
    return jnp.where(jax.random.bernoulli(key, 1.0 - rate, x.shape), x / (1.0 - rate), jnp.zeros_like(x))

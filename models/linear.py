"""Dense and embedding layers whose parameters carry logical axis names, and sharding constraints on activations."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from t5x_like.models import adapted

Initializer = Callable[..., jax.Array]
DEFAULT_INIT = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Constrains the sharding of `x` by logical axis names; returns `x` unchanged if no axis rules are set.

    Raises:
      ValueError: the rules have no such name.
    """
    rules = nn.get_logical_axis_rules()
    if not rules:
        return x
    if unknown := {axis for axis in axes if axis is not None} - {name for name, _ in rules}:
        raise ValueError(f"no axis rule names {sorted(unknown)}; add one to partitioning.RULES")
    return nn.with_logical_constraint(x, axes)


def with_axes(init: Initializer, axes: Sequence[str]) -> Initializer:
    """Boxes the result of `init` with logical axis names; `Module.param` unboxes it."""
    boxed: Any = nn.with_logical_partitioning(init, tuple(axes))
    return boxed


def matrix_init(init: Initializer, inputs: int, axes: Sequence[str]) -> Initializer:
    """Initialises the matrix (product of the first `inputs` dims, product of the rest), reshapes it and names its axes."""

    def initialize(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        rows = math.prod(shape[:inputs])
        return init(key, (rows, math.prod(shape[inputs:])), dtype).reshape(shape)

    return with_axes(initialize, axes)


def over_root(init: Initializer, factors: Sequence[float]) -> Initializer:
    """`init` / sqrt(product of factors): GPT-2's residual projections (2, layers), T5's queries (head_dim,)."""

    def initialize(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        return init(key, shape, dtype) / math.sqrt(math.prod(factors))

    return initialize


def prefers_merged_dims() -> bool:
    """Whether to merge [batch, length] for a product: XLA:CPU contracts two dims, for a weight's gradient, at half speed.

    Other compilers merge dims themselves. Dims that the axis rules split over devices would need collectives.
    """
    mesh, rules = jax.sharding.get_abstract_mesh(), dict(nn.get_logical_axis_rules())
    device = mesh.abstract_device
    if (device.platform if device else jax.default_backend()) != "cpu":
        return False
    split = [rules.get(axis) or () for axis in ("length", "capacity", "expert")]
    names = [name for axes in split for name in ((axes,) if isinstance(axes, str) else axes)]
    return all(mesh.shape.get(name, 1) == 1 for name in names)


def merge_dims(product: Callable[[jax.Array], jax.Array], x: jax.Array, inputs: int = 1) -> jax.Array:
    """Returns product(x), which contracts the last `inputs` dims of x, computed with the other dims of x merged into one."""
    if not prefers_merged_dims():
        return product(x)
    outer, inner = x.shape[: x.ndim - inputs], x.shape[x.ndim - inputs :]
    y = product(x.reshape(math.prod(outer), *inner))
    return y.reshape(*outer, *y.shape[1:])


def add_shared(x: jax.Array, shared: jax.Array) -> jax.Array:
    """x + shared, an array with the last dims of x and at most its precision, broadcast over the other dims.

    On CPU its gradient is a product with ones: XLA's sum over leading dims is up to 40 times slower.
    """
    return _add_shared(x, shared) if prefers_merged_dims() else x + shared


@jax.custom_vjp
def _add_shared(x: jax.Array, shared: jax.Array) -> jax.Array:
    return x + shared


def _forward(x: jax.Array, shared: jax.Array) -> tuple[jax.Array, jax.Array]:
    return x + shared, shared


def _backward(shared: jax.Array, grad: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The gradients of x and of `shared`, whose sum is accumulated in float32."""
    rows = grad.reshape(-1, shared.size)
    total = jnp.matmul(jnp.ones(rows.shape[0], rows.dtype), rows, preferred_element_type=jnp.float32)
    return grad, total.reshape(shared.shape).astype(shared.dtype)


_add_shared.defvjp(_forward, _backward)


class Dense(nn.Module):
    """y = x W + b over the last `inputs` dims of x; `axes` names the dims of W: inputs, then `features`."""

    features: Sequence[int]
    axes: Sequence[str]
    inputs: int = 1
    use_bias: bool = False
    kernel_init: Initializer = DEFAULT_INIT

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        features = tuple(self.features)
        shape = (*x.shape[-self.inputs :], *features)
        kernel = adapted.param(self, "kernel", matrix_init(self.kernel_init, self.inputs, self.axes), shape)
        drops = isinstance(kernel, adapted.LowRank) and kernel.dropout and self.has_rng("dropout")
        key = self.make_rng("dropout") if drops else None
        y = merge_dims(lambda x: adapted.product(x, kernel, self.inputs, key), x, self.inputs)
        if self.use_bias:
            zeros = with_axes(nn.initializers.zeros, self.axes[self.inputs :])
            y = add_shared(y, self.param("bias", zeros, features).astype(x.dtype))
        return y


class Embed(nn.Module):
    """A table of `vocab_size` vectors.

    `scale` multiplies the vectors looked up, not the table that a tied head uses; None is sqrt(width) (Gemma).
    """

    vocab_size: int
    width: int
    table_init: Initializer = nn.initializers.normal(1.0)
    scale: float | None = 1.0

    def setup(self) -> None:
        init = with_axes(self.table_init, ("vocab", "embed"))
        self.table_VD = self.param("table", init, (self.vocab_size, self.width))

    def __call__(self, tokens_BL: jax.Array) -> jax.Array:
        # Gathered over `embed` first: a lookup in a table sharded over it cannot be sharded by rows of the batch.
        def take(table_VD: jax.Array) -> jax.Array:
            return jnp.take(constrain(table_VD, "vocab", None), tokens_BL, axis=0)

        x_BLD = adapted.lookup(self.table_VD, take)
        scale = self.width**0.5 if self.scale is None else self.scale
        return constrain(x_BLD if scale == 1.0 else x_BLD * scale, "batch", "length", "embed")


class Projected(nn.Module):
    """An embedding table narrower than the model, projected to `width` (OPT 350M)."""

    embed: Embed
    width: int
    kernel_init: Initializer = DEFAULT_INIT

    def setup(self) -> None:
        self.projection = Dense((self.width,), ("embed", "mlp"), kernel_init=self.kernel_init)

    @property
    def vocab_size(self) -> int:
        """The number of rows of the table."""
        return self.embed.vocab_size

    @property
    def table_VD(self) -> jax.Array:
        """The table, before the projection."""
        return self.embed.table_VD

    def __call__(self, tokens_BL: jax.Array) -> jax.Array:
        return constrain(self.projection(self.embed(tokens_BL)), "batch", "length", "embed")

"""Dense and embedding layers whose parameters carry logical axis names, and constraints on activations."""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

Initializer = Callable[..., jax.Array]
DEFAULT_INIT = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Lays `x` on the mesh by logical axis names; nothing happens where no axis rules are set.

    Raises:
      ValueError: a name that the rules in force do not know.
    """
    rules = nn.get_logical_axis_rules()
    if not rules:
        return x
    if unknown := {axis for axis in axes if axis is not None} - {name for name, _ in rules}:
        raise ValueError(f"no axis rule names {sorted(unknown)}; add one to partitioning.RULES")
    return nn.with_logical_constraint(x, axes)


def matrix_init(init: Initializer, inputs: int, axes: Sequence[str]) -> Initializer:
    """`init` of the matrix (product of the first `inputs` dims, product of the rest), reshaped and named."""

    def initialize(key, shape, dtype=jnp.float32):
        rows = math.prod(shape[:inputs])
        return init(key, (rows, math.prod(shape[inputs:])), dtype).reshape(shape)

    return nn.with_logical_partitioning(initialize, tuple(axes))


def over_root(init: Initializer, factors: Sequence[float]) -> Initializer:
    """`init` / sqrt(product of factors): GPT-2's residual projections (2, layers), T5's queries (head_dim,)."""

    def initialize(key, shape, dtype=jnp.float32):
        return init(key, shape, dtype) / math.sqrt(math.prod(factors))

    return initialize


class Dense(nn.Module):
    """y = x W + b over the last `inputs` dims of x; `axes` names W's dims, inputs first, then `features`."""

    features: Sequence[int]
    axes: Sequence[str]
    inputs: int = 1
    use_bias: bool = False
    kernel_init: Initializer = DEFAULT_INIT

    @nn.compact
    def __call__(self, x):
        features = tuple(self.features)
        shape = (*x.shape[-self.inputs :], *features)
        kernel = self.param("kernel", matrix_init(self.kernel_init, self.inputs, self.axes), shape)
        y = jnp.tensordot(x, kernel.astype(x.dtype), self.inputs)
        if self.use_bias:
            zeros = nn.with_logical_partitioning(nn.initializers.zeros, tuple(self.axes[self.inputs :]))
            y += self.param("bias", zeros, features).astype(x.dtype)
        return y


class Embed(nn.Module):
    """A table of `vocab_size` vectors.

    `scale` multiplies what is looked up, not what a tied head reads; None is sqrt(width) (Gemma).
    """

    vocab_size: int
    width: int
    table_init: Initializer = nn.initializers.normal(1.0)
    scale: float | None = 1.0

    def setup(self):
        init = nn.with_logical_partitioning(self.table_init, ("vocab", "embed"))
        self.table_VD = self.param("table", init, (self.vocab_size, self.width))

    def __call__(self, tokens_BL):
        # Gathered over `embed` first: a lookup in a table split there cannot be laid out by rows of the batch.
        x_BLD = jnp.take(constrain(self.table_VD, "vocab", None), tokens_BL, axis=0)
        scale = self.width**0.5 if self.scale is None else self.scale
        return constrain(x_BLD if scale == 1.0 else x_BLD * scale, "batch", "length", "embed")


class Projected(nn.Module):
    """A table narrower than the model, its vectors brought to `width` by a matrix (OPT 350M)."""

    embed: Embed
    width: int
    kernel_init: Initializer = DEFAULT_INIT

    def setup(self):
        self.projection = Dense((self.width,), ("embed", "mlp"), kernel_init=self.kernel_init)

    @property
    def vocab_size(self) -> int:
        return self.embed.vocab_size

    @property
    def table_VD(self) -> jax.Array:
        return self.embed.table_VD

    def __call__(self, tokens_BL):
        return constrain(self.projection(self.embed(tokens_BL)), "batch", "length", "embed")

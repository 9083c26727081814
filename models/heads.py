"""Heads turn the last hidden state into logits over the vocabulary, in float32: `(x_BLD, table_VD) -> logits_BLV`."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from models.linear import DEFAULT_INIT, Dense, Initializer, constrain
from models.norms import LayerNorm


def product(x_BLD: jax.Array, table_VD: jax.Array) -> jax.Array:
    """x times the transposed table, accumulated and returned in float32."""
    logits_BLV = jnp.einsum("BLD,VD->BLV", x_BLD, table_VD.astype(x_BLD.dtype), preferred_element_type=jnp.float32)
    return constrain(logits_BLV, "batch", "length", "vocab")


class Tied(nn.Module):
    """Reads the embedding table; `scale` multiplies x first, None is width ** -0.5 (T5 1.0)."""

    scale: float | None = 1.0
    use_bias: bool = False

    @nn.compact
    def __call__(self, x_BLD: jax.Array, table_VD: jax.Array) -> jax.Array:
        scale = x_BLD.shape[-1] ** -0.5 if self.scale is None else self.scale
        logits_BLV = product(x_BLD if scale == 1.0 else x_BLD * scale, table_VD)
        if self.use_bias:
            zeros = nn.with_logical_partitioning(nn.initializers.zeros, ("vocab",))
            logits_BLV += self.param("bias", zeros, table_VD.shape[:1])
        return logits_BLV


class Untied(nn.Module):
    """A table of its own, as large as the embedding's."""

    table_init: Initializer = DEFAULT_INIT

    @nn.compact
    def __call__(self, x_BLD: jax.Array, table_VD: jax.Array) -> jax.Array:
        # The initializer's fan-in is the width, hence the transpose.
        def transposed(key, shape, dtype=jnp.float32):
            return self.table_init(key, shape[::-1], dtype).T

        init = nn.with_logical_partitioning(transposed, ("vocab", "embed"))
        return product(x_BLD, self.param("table", init, table_VD.shape))


class MaskedLM(nn.Module):
    """BERT's head: dense, activation, norm, then the embedding table and a bias per word."""

    activation: Callable = nn.gelu
    norm: nn.Module = LayerNorm(epsilon=1e-12)
    kernel_init: Initializer = nn.initializers.normal(0.02)

    @nn.compact
    def __call__(self, x_BLD: jax.Array, table_VD: jax.Array) -> jax.Array:
        transform = Dense(x_BLD.shape[-1:], ("embed", "mlp"), 1, True, self.kernel_init, name="transform")
        x_BLD = self.norm(self.activation(transform(x_BLD)))
        return Tied(use_bias=True, name="output")(x_BLD, table_VD)

"""Heads turn the last hidden state into logits over the vocabulary, in float32: `(x_BLD, table_VD) -> logits_BLV`.

`Detector` and `states` give other things of that shape; `Pooler` reads a whole row.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from t5x_like.models.linear import DEFAULT_INIT, Dense, Initializer, constrain
from t5x_like.models.mlp import gelu
from t5x_like.models.norms import LayerNorm

NORMAL = nn.initializers.normal(0.02)


def product(x_BLD: jax.Array, table_VD: jax.Array) -> jax.Array:
    """x times the transposed table, accumulated and returned in float32."""
    logits_BLV = jnp.einsum("BLD,VD->BLV", x_BLD, table_VD.astype(x_BLD.dtype), preferred_element_type=jnp.float32)
    return constrain(logits_BLV, "batch", "length", "vocab")


def word_bias(module: nn.Module, table_VD: jax.Array) -> jax.Array:
    """A learned bias per word, a parameter of `module`."""
    zeros = nn.with_logical_partitioning(nn.initializers.zeros, ("vocab",))
    return module.param("bias", zeros, table_VD.shape[:1])


class Tied(nn.Module):
    """Reads the embedding table; `scale` multiplies x first, None is width ** -0.5 (T5 1.0)."""

    scale: float | None = 1.0
    use_bias: bool = False

    @nn.compact
    def __call__(self, x_BLD: jax.Array, table_VD: jax.Array) -> jax.Array:
        scale = x_BLD.shape[-1] ** -0.5 if self.scale is None else self.scale
        logits_BLV = product(x_BLD if scale == 1.0 else x_BLD * scale, table_VD)
        return logits_BLV + word_bias(self, table_VD) if self.use_bias else logits_BLV


class Untied(nn.Module):
    """A table of its own, with as many words as the embedding's."""

    use_bias: bool = False
    table_init: Initializer = DEFAULT_INIT

    @nn.compact
    def __call__(self, x_BLD: jax.Array, table_VD: jax.Array) -> jax.Array:
        # The initializer's fan-in is the width, hence the transpose.
        def transposed(key, shape, dtype=jnp.float32):
            return self.table_init(key, shape[::-1], dtype).T

        init = nn.with_logical_partitioning(transposed, ("vocab", "embed"))
        logits_BLV = product(x_BLD, self.param("table", init, (table_VD.shape[0], x_BLD.shape[-1])))
        return logits_BLV + word_bias(self, table_VD) if self.use_bias else logits_BLV


class Projected(nn.Module):
    """A head behind a matrix to `width`, that of a table narrower than the model (OPT 350M)."""

    head: nn.Module
    width: int
    kernel_init: Initializer = DEFAULT_INIT

    @nn.compact
    def __call__(self, x_BLD: jax.Array, table_VD: jax.Array) -> jax.Array:
        projection = Dense((self.width,), ("embed", "mlp"), kernel_init=self.kernel_init, name="projection")
        return self.head(projection(x_BLD), table_VD)


class SoftCapped(nn.Module):
    """cap * tanh(logits / cap) of a head's logits (Gemma 2)."""

    head: nn.Module
    cap: float

    def __call__(self, x_BLD: jax.Array, table_VD: jax.Array) -> jax.Array:
        return self.cap * jnp.tanh(self.head(x_BLD, table_VD) / self.cap)


class MaskedLM(nn.Module):
    """BERT's head: dense to the table's width, activation, norm, then the embedding table and a bias per word."""

    activation: Callable = gelu
    norm: nn.Module = LayerNorm(epsilon=1e-12)
    kernel_init: Initializer = NORMAL

    @nn.compact
    def __call__(self, x_BLD: jax.Array, table_VD: jax.Array) -> jax.Array:
        transform = Dense(table_VD.shape[1:], ("embed", "mlp"), 1, True, self.kernel_init, name="transform")
        x_BLD = self.norm(self.activation(transform(x_BLD)))
        return Tied(use_bias=True, name="output")(x_BLD, table_VD)


class Detector(nn.Module):
    """ELECTRA's head: one logit a token, [B, L, 1] float32, that the token was replaced (Clark et al. 2020)."""

    activation: Callable = gelu
    kernel_init: Initializer = NORMAL

    @nn.compact
    def __call__(self, x_BLD: jax.Array, table_VD: jax.Array) -> jax.Array:
        width = x_BLD.shape[-1:]
        x_BLD = self.activation(Dense(width, ("embed", "mlp"), 1, True, self.kernel_init, name="transform")(x_BLD))
        return Dense((1,), ("embed", "router"), 1, True, self.kernel_init, name="output")(x_BLD).astype(jnp.float32)


def states(x_BLD: jax.Array, table_VD: jax.Array) -> jax.Array:
    """No head: the hidden states themselves, of any dtype (sentence encoders)."""
    return x_BLD


class Pooler(nn.Module):
    """tanh(dense(the first token's state)): what BERT says of a row as a whole, [B, L, D] -> [B, D]."""

    kernel_init: Initializer = NORMAL

    @nn.compact
    def __call__(self, x_BLD: jax.Array) -> jax.Array:
        width = x_BLD.shape[-1:]
        return jnp.tanh(Dense(width, ("embed", "mlp"), 1, True, self.kernel_init, name="transform")(x_BLD[:, 0]))

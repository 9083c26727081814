"""Heads compute float32 logits over the vocabulary from the last hidden state: `(x_BLD, table_VD) -> logits_BLV`.

`Detector` returns one logit per token and `states` the hidden states themselves; `Pooler` reads a whole row.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from t5x_like.models import adapted
from t5x_like.models.linear import DEFAULT_INIT, Dense, Initializer, add_shared, constrain, merge_dims, with_axes
from t5x_like.models.mlp import gelu
from t5x_like.models.norms import LayerNorm
from t5x_like.models.quantized import Int8, by_blocks

NORMAL = nn.initializers.normal(0.02)


def product(x_BLD: jax.Array, table_VD: jax.Array | Int8 | adapted.LowRank) -> jax.Array:
    """Returns x times the transposed table, in x's dtype and accumulated in float32: [B, L, V]."""

    def multiply(x: jax.Array, table: jax.Array | Int8) -> jax.Array:
        if isinstance(table, Int8):
            return by_blocks(lambda block_VD: _logits(x, block_VD), table, x.dtype, 0)
        return _logits(x, table)

    logits_BLV = merge_dims(lambda x: adapted.transposed_product(multiply, x, table_VD), x_BLD)
    return constrain(logits_BLV, "batch", "length", "vocab")


@jax.custom_vjp
def _logits(x: jax.Array, table_VD: jax.Array) -> jax.Array:
    """The product [..., V], whose backward pass multiplies in x's dtype too: its gradient is float32, as the logits are."""
    return jnp.einsum("...D,VD->...V", x, table_VD.astype(x.dtype), preferred_element_type=jnp.float32)


def _forward(x: jax.Array, table_VD: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _logits(x, table_VD), (x, table_VD)


def _backward(saved: tuple[jax.Array, jax.Array], grad: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The gradients of x and of the table; the table's is accumulated in float32."""
    (x, table_VD), grad = saved, grad.astype(saved[0].dtype)
    table_grad_VD = jnp.einsum("...V,...D->VD", grad, x, preferred_element_type=jnp.float32)
    return jnp.einsum("...V,VD->...D", grad, table_VD.astype(x.dtype)), table_grad_VD.astype(table_VD.dtype)


_logits.defvjp(_forward, _backward)


def multiply(x_BLD: jax.Array, scale: float | None) -> jax.Array:
    """Returns x times `scale`; None is width ** -0.5."""
    scale = x_BLD.shape[-1] ** -0.5 if scale is None else scale
    return x_BLD if scale == 1.0 else x_BLD * scale


def word_bias(module: nn.Module, table_VD: jax.Array) -> jax.Array:
    """Returns a learned bias per token id [V], a parameter of `module`."""
    zeros = with_axes(nn.initializers.zeros, ("vocab",))
    return module.param("bias", zeros, table_VD.shape[:1])


class Tied(nn.Module):
    """Uses the embedding table; x is first multiplied by `scale`, None is width ** -0.5 (T5 1.0)."""

    scale: float | None = 1.0
    use_bias: bool = False

    @nn.compact
    def __call__(self, x_BLD: jax.Array, table_VD: jax.Array) -> jax.Array:
        logits_BLV = product(multiply(x_BLD, self.scale), table_VD)
        return add_shared(logits_BLV, word_bias(self, table_VD)) if self.use_bias else logits_BLV


class Untied(nn.Module):
    """Has its own table, with as many rows as the embedding table; x is first multiplied by `scale`, see `Tied`."""

    scale: float | None = 1.0
    use_bias: bool = False
    table_init: Initializer = DEFAULT_INIT

    @nn.compact
    def __call__(self, x_BLD: jax.Array, table_VD: jax.Array) -> jax.Array:
        # The initializer's fan-in is the width, hence the transpose.
        def transposed(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
            return self.table_init(key, shape[::-1], dtype).T

        init = with_axes(transposed, ("vocab", "embed"))
        logits_BLV = product(
            multiply(x_BLD, self.scale), self.param("table", init, (table_VD.shape[0], x_BLD.shape[-1]))
        )
        return add_shared(logits_BLV, word_bias(self, table_VD)) if self.use_bias else logits_BLV


class Projected(nn.Module):
    """Projects x to `width`, that of a table narrower than the model, and applies `head` (OPT 350M)."""

    head: nn.Module
    width: int
    kernel_init: Initializer = DEFAULT_INIT

    @nn.compact
    def __call__(self, x_BLD: jax.Array, table_VD: jax.Array) -> jax.Array:
        projection = Dense((self.width,), ("embed", "mlp"), kernel_init=self.kernel_init, name="projection")
        return self.head(projection(x_BLD), table_VD)


class SoftCapped(nn.Module):
    """Bounds the logits of `head`: cap * tanh(logits / cap) (Gemma 2)."""

    head: nn.Module
    cap: float

    def __call__(self, x_BLD: jax.Array, table_VD: jax.Array) -> jax.Array:
        return self.cap * jnp.tanh(self.head(x_BLD, table_VD) / self.cap)


class MaskedLM(nn.Module):
    """BERT's head: dense to the table's width, activation, norm, then the embedding table and a bias per token id."""

    activation: Callable = gelu
    norm: nn.Module = LayerNorm(epsilon=1e-12)
    kernel_init: Initializer = NORMAL

    @nn.compact
    def __call__(self, x_BLD: jax.Array, table_VD: jax.Array) -> jax.Array:
        transform = Dense(table_VD.shape[1:], ("embed", "mlp"), 1, True, self.kernel_init, name="transform")
        x_BLD = self.norm(self.activation(transform(x_BLD)))
        return Tied(use_bias=True, name="output")(x_BLD, table_VD)


class Detector(nn.Module):
    """ELECTRA's head: the logit that a token was replaced, [B, L, 1] float32 (Clark et al. 2020)."""

    activation: Callable = gelu
    kernel_init: Initializer = NORMAL

    @nn.compact
    def __call__(self, x_BLD: jax.Array, table_VD: jax.Array) -> jax.Array:
        width = x_BLD.shape[-1:]
        x_BLD = self.activation(Dense(width, ("embed", "mlp"), 1, True, self.kernel_init, name="transform")(x_BLD))
        return Dense((1,), ("embed", "router"), 1, True, self.kernel_init, name="output")(x_BLD).astype(jnp.float32)


def states(x_BLD: jax.Array, table_VD: jax.Array) -> jax.Array:
    """Returns the hidden states themselves, in their dtype (sentence encoders)."""
    return x_BLD


class Pooler(nn.Module):
    """BERT's representation of a row, tanh(dense(state of the first token)): [B, L, D] -> [B, D]."""

    kernel_init: Initializer = NORMAL

    @nn.compact
    def __call__(self, x_BLD: jax.Array) -> jax.Array:
        width = x_BLD.shape[-1:]
        return jnp.tanh(Dense(width, ("embed", "mlp"), 1, True, self.kernel_init, name="transform")(x_BLD[:, 0]))

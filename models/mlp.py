"""The position-wise feed-forward sublayer, plain or gated."""

from collections.abc import Callable

import jax
from flax import linen as nn

from t5x_like.models.context import Context
from t5x_like.models.linear import DEFAULT_INIT, Dense, Initializer, constrain


def gelu(x: jax.Array) -> jax.Array:
    """x Phi(x) (Hendrycks & Gimpel 2016)."""
    return nn.gelu(x, approximate=False)


def gelu_tanh(x: jax.Array) -> jax.Array:
    """The tanh approximation of `gelu` (GPT-2, T5 v1.1, Gemma)."""
    return nn.gelu(x, approximate=True)


class Mlp(nn.Module):
    """down(act(up(x))), or gated down(act(gate(x)) * up(x)) (GLU variants, Shazeer 2020)."""

    hidden_dim: int
    activation: Callable = gelu_tanh
    gated: bool = False
    use_bias: bool = False
    dropout: float = 0.0
    kernel_init: Initializer = DEFAULT_INIT
    out_init: Initializer | None = None

    @nn.compact
    def __call__(self, x_BLD: jax.Array, ctx: Context) -> jax.Array:
        h_BLF = self.activation(self.projection("gate" if self.gated else "up")(x_BLD))
        if self.gated:
            h_BLF *= self.projection("up")(x_BLD)
        h_BLF = constrain(h_BLF, "batch", "length", "mlp")
        h_BLF = nn.Dropout(self.dropout)(h_BLF, deterministic=not ctx.train)
        init = self.out_init or self.kernel_init
        down = Dense(x_BLD.shape[-1:], ("mlp", "embed"), 1, self.use_bias, init, name="down")
        return down(h_BLF)

    def projection(self, name: str) -> Dense:
        """A projection from the model width to `hidden_dim`."""
        axes = ("embed", "mlp")
        return Dense((self.hidden_dim,), axes, 1, self.use_bias, self.kernel_init, name=name)

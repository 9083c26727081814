"""Bottleneck adapters (Houlsby et al. 2019): small MLPs beside or behind the sublayers of a frozen model; see `blocks.Block`.

Each is `(y_BLD, x_BLD) -> y_BLD`, where y is the output of a sublayer and x its input. Its last kernel starts at zero, so the
model starts as it was. It has 2 d m + d + m parameters for width d and `dim` m.
"""

from collections.abc import Callable

import jax
from flax import linen as nn

from t5x_like.models.linear import DEFAULT_INIT, Dense, Initializer
from t5x_like.models.mlp import gelu


class Serial(nn.Module):
    """y + up(act(down(y))): behind a sublayer (Houlsby et al. 2019; behind the MLP alone: Pfeiffer et al. 2021)."""

    dim: int
    activation: Callable = gelu
    kernel_init: Initializer = DEFAULT_INIT

    @nn.compact
    def __call__(self, y_BLD: jax.Array, x_BLD: jax.Array) -> jax.Array:
        return y_BLD + bottleneck(y_BLD, self.dim, self.activation, self.kernel_init)


class Parallel(nn.Module):
    """y + scale * up(act(down(x))): beside a sublayer (He et al. 2022)."""

    dim: int
    scale: float = 1.0
    activation: Callable = nn.relu
    kernel_init: Initializer = DEFAULT_INIT

    @nn.compact
    def __call__(self, y_BLD: jax.Array, x_BLD: jax.Array) -> jax.Array:
        return y_BLD + self.scale * bottleneck(x_BLD, self.dim, self.activation, self.kernel_init)


def bottleneck(x_BLD: jax.Array, dim: int, activation: Callable, init: Initializer) -> jax.Array:
    """up(act(down(x))), whose layers belong to the calling module."""
    down = Dense((dim,), ("embed", "mlp"), 1, True, init, name="down")
    up = Dense(x_BLD.shape[-1:], ("mlp", "embed"), 1, True, nn.initializers.zeros, name="up")
    return up(activation(down(x_BLD)))

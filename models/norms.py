"""Normalisation layers, computed in float32 whatever the input's dtype."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from t5x_like.models.linear import Initializer, with_axes


def norm_init(init: Initializer, dims: int) -> Initializer:
    """Adds logical axis names to `init` of a parameter over the last `dims` dims."""
    return with_axes(init, ("heads", "norm")[-dims:])


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + epsilon) * (scale + shift) over the last `dims` (1 or 2) dims (Zhang & Sennrich 2019).

    `shift` is 1 in Gemma, whose scale starts at 0. With `dims` 2 all heads of a query or key are normalised together (OLMo 2).
    """

    epsilon: float = 1e-6
    shift: float = 0.0
    dims: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        axes = tuple(range(-self.dims, 0))
        scale = self.param(
            "scale", norm_init(nn.initializers.constant(1.0 - self.shift), self.dims), x.shape[-self.dims :]
        )
        wide = x.astype(jnp.float32)
        wide *= jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=axes, keepdims=True) + self.epsilon)
        return (wide * (scale + self.shift if self.shift else scale)).astype(x.dtype)


class LayerNorm(nn.Module):
    """(x - mean(x)) / sqrt(var(x) + epsilon) * scale + bias (Ba et al. 2016)."""

    epsilon: float = 1e-5
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.float32)
        wide -= jnp.mean(wide, axis=-1, keepdims=True)
        wide *= jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + self.epsilon)
        wide *= self.param("scale", norm_init(nn.initializers.ones, 1), x.shape[-1:])
        if self.use_bias:
            wide += self.param("bias", norm_init(nn.initializers.zeros, 1), x.shape[-1:])
        return wide.astype(x.dtype)

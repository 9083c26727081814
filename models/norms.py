"""Normalisation over the model width, in float32 whatever the input's dtype."""

import jax
import jax.numpy as jnp
from flax import linen as nn

ones = nn.with_logical_partitioning(nn.initializers.ones, ("norm",))
zeros = nn.with_logical_partitioning(nn.initializers.zeros, ("norm",))


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + epsilon) * scale (Zhang & Sennrich 2019)."""

    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x):
        wide = x.astype(jnp.float32)
        wide *= jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + self.epsilon)
        return (wide * self.param("scale", ones, x.shape[-1:])).astype(x.dtype)


class LayerNorm(nn.Module):
    """(x - mean(x)) / sqrt(var(x) + epsilon) * scale + bias (Ba et al. 2016)."""

    epsilon: float = 1e-5
    use_bias: bool = True

    @nn.compact
    def __call__(self, x):
        wide = x.astype(jnp.float32)
        wide -= jnp.mean(wide, axis=-1, keepdims=True)
        wide *= jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + self.epsilon)
        wide *= self.param("scale", ones, x.shape[-1:])
        if self.use_bias:
            wide += self.param("bias", zeros, x.shape[-1:])
        return wide.astype(x.dtype)

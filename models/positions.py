"""Position encodings, each `(x_BLD, ctx) -> (x_BLD, ctx)`: learned and sinusoidal change x, rotary sets the angles,
T5's relative bias and ALiBi set the attention bias."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from models.context import Context
from models.linear import Initializer


class Learned(nn.Module):
    """Adds a learned vector per position."""

    max_length: int
    table_init: Initializer = nn.initializers.normal(0.02)

    @nn.compact
    def __call__(self, x_BLD: jax.Array, ctx: Context) -> tuple[jax.Array, Context]:
        slots = ctx.keys.positions_BL.shape[1]
        if slots > self.max_length:
            raise ValueError(
                f"a length of {slots} is longer than the position table, positions.Learned.max_length="
                f"{self.max_length}; shorten the sequences or raise max_length"
            )
        init = nn.with_logical_partitioning(self.table_init, ("position", "embed"))
        table_ND = self.param("table", init, (self.max_length, x_BLD.shape[-1]))
        return x_BLD + table_ND[ctx.queries.positions_BL].astype(x_BLD.dtype), ctx


class Sinusoidal(nn.Module):
    """Adds [sin(p w), cos(p w)], w = max_wavelength^(-2i/D) (Vaswani et al. 2017; halves joined, not interleaved)."""

    max_wavelength: float = 1e4

    def __call__(self, x_BLD: jax.Array, ctx: Context) -> tuple[jax.Array, Context]:
        angles_BLK = rotary_angles(ctx.queries.positions_BL, x_BLD.shape[-1], self.max_wavelength)
        waves_BLD = jnp.concatenate([jnp.sin(angles_BLK), jnp.cos(angles_BLK)], axis=-1)
        return x_BLD + waves_BLD.astype(x_BLD.dtype), ctx


class Rope(nn.Module):
    """Rotates queries and keys by position (RoFormer, Su et al. 2021), the halves of a head paired as in LLaMA."""

    head_dim: int
    base: float = 1e4

    def __call__(self, x_BLD: jax.Array, ctx: Context) -> tuple[jax.Array, Context]:
        if self.head_dim % 2:
            raise ValueError(f"positions.Rope.head_dim={self.head_dim} is odd; rotary pairs need an even width")
        angles_BLK = rotary_angles(ctx.queries.positions_BL, self.head_dim, self.base)
        return x_BLD, ctx.replace(angles_BLK=angles_BLK)


def rotary_angles(positions_BL: jax.Array, width: int, base: float) -> jax.Array:
    """position * base^(-2i/width) for i in 0 .. width/2 - 1, float32 [B, L, width/2]."""
    frequencies_K = base ** (-np.arange(0, width, 2, dtype=np.float32) / width)
    return positions_BL[..., None].astype(jnp.float32) * frequencies_K


def rotate(x_BLHK: jax.Array, angles_BLK: jax.Array) -> jax.Array:
    """Rotates the pairs (x_i, x_{i + K/2}) of every head by the angles."""
    cos, sin = jnp.cos(angles_BLK)[:, :, None], jnp.sin(angles_BLK)[:, :, None]
    first, second = jnp.split(x_BLHK, 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x_BLHK.dtype)


class RelativeBias(nn.Module):
    """A learned bias per head and distance bucket (T5, Raffel et al. 2020), shared by all layers of a stack."""

    num_heads: int
    bidirectional: bool = False
    num_buckets: int = 32
    max_distance: int = 128
    table_init: Initializer = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")

    @nn.compact
    def __call__(self, x_BLD: jax.Array, ctx: Context) -> tuple[jax.Array, Context]:
        init = nn.with_logical_partitioning(self.table_init, ("heads", "relpos"))
        table_HN = self.param("table", init, (self.num_heads, self.num_buckets))
        bucket_ALM = relative_bucket(ctx.distances_ALM(), self.bidirectional, self.num_buckets, self.max_distance)
        bias_AHLM = jnp.moveaxis(jnp.take(table_HN, bucket_ALM, axis=1), 0, 1)
        return x_BLD, ctx.replace(bias_AHLM=bias_AHLM)


def relative_bucket(distances: jax.Array, bidirectional: bool, num_buckets: int, max_distance: int) -> jax.Array:
    """T5's bucket of key position minus query position: exact when near, logarithmic to `max_distance`, then one."""
    bucket = jnp.zeros_like(distances)
    if bidirectional:
        num_buckets //= 2
        bucket += jnp.where(distances > 0, num_buckets, 0)
        back = jnp.abs(distances)
    else:
        back = jnp.maximum(-distances, 0)
    exact = num_buckets // 2
    scaled = jnp.log(jnp.maximum(back, 1).astype(jnp.float32) / exact) / math.log(max_distance / exact)
    far = exact + (scaled * (num_buckets - exact)).astype(jnp.int32)
    return bucket + jnp.where(back < exact, back, jnp.minimum(far, num_buckets - 1))


class Alibi(nn.Module):
    """A fixed bias -slope * distance, one slope per head (Press et al. 2022)."""

    num_heads: int

    def __call__(self, x_BLD: jax.Array, ctx: Context) -> tuple[jax.Array, Context]:
        slopes_H = jnp.asarray(alibi_slopes(self.num_heads))
        distances_A1LM = jnp.abs(ctx.distances_ALM())[:, None].astype(jnp.float32)
        return x_BLD, ctx.replace(bias_AHLM=-slopes_H[:, None, None] * distances_A1LM)


def alibi_slopes(num_heads: int) -> np.ndarray:
    """2^(-8h/n), h = 1 .. n, for a power of two n; else those of the power below, then every other of the one above."""
    below = 2 ** int(math.log2(num_heads))
    first = 2.0 ** (-8.0 * np.arange(1, below + 1) / below)
    rest = 2.0 ** (-8.0 * np.arange(1, 2 * below + 1, 2) / (2 * below))
    return np.concatenate([first, rest])[:num_heads].astype(np.float32)

"""Position encodings, each `(x_BLD, ctx) -> (x_BLD, ctx)`.

Learned and sinusoidal encodings change x, rotary sets the angles, T5's relative bias and ALiBi set the attention bias.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from t5x_like.models.context import Context
from t5x_like.models.linear import Initializer, with_axes


class Learned(nn.Module):
    """Adds a learned vector per position; the first `offset` rows of the table are unused (2 in OPT, BART, RoBERTa).

    Raises:
      ValueError: the sequences are longer than `max_length`.
    """

    max_length: int
    offset: int = 0
    table_init: Initializer = nn.initializers.normal(0.02)

    @nn.compact
    def __call__(self, x_BLD: jax.Array, ctx: Context) -> tuple[jax.Array, Context]:
        length = ctx.keys.positions_BL.shape[1] + ctx.virtual
        if length > self.max_length:
            raise ValueError(
                f"a length of {length} is longer than the position table, positions.Learned.max_length="
                f"{self.max_length}; shorten the sequences or raise max_length"
            )
        init = with_axes(self.table_init, ("position", "embed"))
        table_ND = self.param("table", init, (self.max_length + self.offset, x_BLD.shape[-1]))
        return x_BLD + table_ND[ctx.queries.positions_BL + self.offset].astype(x_BLD.dtype), ctx


class Sinusoidal(nn.Module):
    """Adds [sin(p w), cos(p w)], w = max_wavelength^(-2i/D) (Vaswani et al. 2017; halves concatenated, not interleaved)."""

    max_wavelength: float = 1e4

    def __call__(self, x_BLD: jax.Array, ctx: Context) -> tuple[jax.Array, Context]:
        frequencies_K = rotary_frequencies(x_BLD.shape[-1], self.max_wavelength)
        angles_BLK = ctx.queries.positions_BL[..., None].astype(jnp.float32) * frequencies_K
        waves_BLD = jnp.concatenate([jnp.sin(angles_BLK), jnp.cos(angles_BLK)], axis=-1)
        return x_BLD + waves_BLD.astype(x_BLD.dtype), ctx


class Rope(nn.Module):
    """Rotates queries and keys by position (RoFormer, Su et al. 2021); the halves of a head are paired as in LLaMA.

    `width` is the number of leading dims of every head that are rotated (all of them in LLaMA, a quarter in GPT-NeoX).
    `scaling` changes the frequencies for lengths beyond the trained one, see `rope_scaling`.

    Raises:
      ValueError: `width` is odd.
    """

    width: int
    base: float = 1e4
    scaling: Callable | None = None

    def __call__(self, x_BLD: jax.Array, ctx: Context) -> tuple[jax.Array, Context]:
        if self.width % 2:
            raise ValueError(f"positions.Rope.width={self.width} is odd; rotary pairs need an even width")
        frequencies_K, magnitude = rotary_frequencies(self.width, self.base), 1.0
        if self.scaling is not None:
            frequencies_K, magnitude = self.scaling(frequencies_K, self.base, ctx)
        angles_BLK = ctx.queries.positions_BL[..., None].astype(jnp.float32) * frequencies_K
        return x_BLD, ctx.replace(rotary=(magnitude * jnp.cos(angles_BLK), magnitude * jnp.sin(angles_BLK)))


def rotary_frequencies(width: int, base: float) -> np.ndarray:
    """Returns base^(-2i/width) for i in 0 .. width/2 - 1, radians per position, float32 [width/2]."""
    return base ** (-np.arange(0, width, 2, dtype=np.float32) / width)


def rotate(x_BLHK: jax.Array, rotary: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Rotates the pairs (x_i, x_{i + W/2}) of the first W dims of every head, given cos and sin [B, L, W/2]."""
    cos, sin = rotary[0][:, :, None], rotary[1][:, :, None]
    half = cos.shape[-1]
    first, second, rest = x_BLHK[..., :half], x_BLHK[..., half : 2 * half], x_BLHK[..., 2 * half :]
    rotated = [first * cos - second * sin, second * cos + first * sin]
    return jnp.concatenate([*(part.astype(x_BLHK.dtype) for part in rotated), rest], axis=-1)


class RelativeBias(nn.Module):
    """A learned bias per head and distance bucket (T5, Raffel et al. 2020), shared by all layers of a stack."""

    num_heads: int
    bidirectional: bool = False
    num_buckets: int = 32
    max_distance: int = 128
    table_init: Initializer = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")

    @nn.compact
    def __call__(self, x_BLD: jax.Array, ctx: Context) -> tuple[jax.Array, Context]:
        init = with_axes(self.table_init, ("heads", "relpos"))
        table_HN = self.param("table", init, (self.num_heads, self.num_buckets))
        bucket_ALM = relative_bucket(ctx.distances_ALM(), self.bidirectional, self.num_buckets, self.max_distance)
        bias_AHLM = jnp.moveaxis(jnp.take(table_HN, bucket_ALM, axis=1), 0, 1)
        return x_BLD, ctx.replace(bias_AHLM=bias_AHLM)


def relative_bucket(distances: jax.Array, bidirectional: bool, num_buckets: int, max_distance: int) -> jax.Array:
    """Returns T5's bucket of key minus query position: exact when near, logarithmic up to `max_distance`, then a single one."""
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
    """A fixed bias -slope * distance, one slope per head (Press et al. 2022), times `scale` (Falcon: head_dim ** -0.5).

    With a `dtype`, slope * position is rounded to it before differences are taken, as in Falcon's training (bfloat16).
    """

    num_heads: int
    scale: float = 1.0
    dtype: Any = None

    def __call__(self, x_BLD: jax.Array, ctx: Context) -> tuple[jax.Array, Context]:
        if self.dtype is not None:
            slopes_H11 = round_to(jnp.asarray(alibi_slopes(self.num_heads)), self.dtype)[:, None, None]
            positions_B11M = round_to(ctx.key_positions_BM()[:, None, None].astype(jnp.float32), self.dtype)
            bias_BH1M = self.scale * round_to(slopes_H11 * positions_B11M, self.dtype)
            # The query's own position adds the same number to all of its scores, which the softmax ignores.
            return x_BLD, ctx.replace(bias_AHLM=bias_BH1M)
        slopes_H = jnp.asarray(self.scale * alibi_slopes(self.num_heads))
        distances_A1LM = jnp.abs(ctx.distances_ALM())[:, None].astype(jnp.float32)
        return x_BLD, ctx.replace(bias_AHLM=-slopes_H[:, None, None] * distances_A1LM)


def round_to(x: jax.Array, dtype: Any) -> jax.Array:
    """Rounds x to the precision of `dtype`. XLA may remove a cast there and back, but not this."""
    return jax.lax.reduce_precision(x, jnp.finfo(dtype).nexp, jnp.finfo(dtype).nmant)


def alibi_slopes(num_heads: int) -> np.ndarray:
    """Returns 2^(-8h/n), h = 1 .. n, for n a power of two; else those of the power below, then every other one of the next."""
    below = 2 ** int(math.log2(num_heads))
    first = 2.0 ** (-8.0 * np.arange(1, below + 1) / below)
    rest = 2.0 ** (-8.0 * np.arange(1, 2 * below + 1, 2) / (2 * below))
    return np.concatenate([first, rest])[:num_heads].astype(np.float32)

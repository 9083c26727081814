"""Scaling of rotary frequencies for lengths beyond the trained one: `(frequencies_K, base, ctx) -> (frequencies, m)`.

frequencies_K are in radians per position; the result is [K] or [B, L, K]. Cos and sin are multiplied by m.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from t5x_like.models import masks
from t5x_like.models.context import Context


@dataclasses.dataclass(frozen=True)
class Linear:
    """Divides all frequencies by `factor`: positions are interpolated (Chen et al. 2023)."""

    factor: float

    def __call__(self, frequencies_K: np.ndarray, base: float, ctx: Context) -> tuple[np.ndarray, float]:
        return frequencies_K / np.float32(self.factor), 1.0


@dataclasses.dataclass(frozen=True)
class Ntk:
    """Multiplies the base by `factor` ^ (W / (W - 2)): the lowest frequency is divided by `factor`, the highest unchanged."""

    factor: float

    def __call__(self, frequencies_K: np.ndarray, base: float, ctx: Context) -> tuple[np.ndarray, float]:
        return frequencies_K * self.factor ** ntk_exponents(len(frequencies_K)), 1.0


@dataclasses.dataclass(frozen=True)
class DynamicNtk:
    """`Ntk` by factor * n / original_length - (factor - 1), where n > original_length is the current length of the segment.

    In decoding, cached keys keep the rotation they were written with, as in other implementations.
    """

    factor: float
    original_length: int

    def __call__(self, frequencies_K: np.ndarray, base: float, ctx: Context) -> tuple[jax.Array, float]:
        segment_BLM = masks.same_segment(ctx.queries, ctx.keys)
        length_BL = 1 + jnp.max(jnp.where(segment_BLM, ctx.keys.positions_BL[:, None], 0), axis=-1)
        stretch_BL1 = (self.factor * length_BL / self.original_length - (self.factor - 1))[..., None]
        return jnp.maximum(stretch_BL1, 1.0) ** ntk_exponents(len(frequencies_K)) * frequencies_K, 1.0


def ntk_exponents(pairs: int) -> np.ndarray:
    """Returns -2i / (W - 2) for i in 0 .. W/2 - 1, the exponent of a factor of the base in frequency i."""
    return -2.0 * np.arange(pairs, dtype=np.float32) / max(2 * pairs - 2, 1)


@dataclasses.dataclass(frozen=True)
class Llama3:
    """Divides frequencies by `factor` for wavelengths above original_length / low_factor, keeps them below original_length /
    high_factor, and interpolates between the two (Llama 3.1)."""

    factor: float = 8.0
    low_factor: float = 1.0
    high_factor: float = 4.0
    original_length: int = 8192

    def __call__(self, frequencies_K: np.ndarray, base: float, ctx: Context) -> tuple[np.ndarray, float]:
        turns_K = self.original_length * frequencies_K / (2 * math.pi)
        keep_K = np.clip((turns_K - self.low_factor) / (self.high_factor - self.low_factor), 0.0, 1.0)
        return (keep_K * frequencies_K + (1 - keep_K) * frequencies_K / self.factor).astype(np.float32), 1.0


@dataclasses.dataclass(frozen=True)
class Yarn:
    """Divides frequencies with less than `slow` turns in original_length by `factor`, keeps those with more than `fast`, and
    ramps linearly over i between them; scores are multiplied by magnitude^2 (YaRN, Peng et al. 2024).

    `magnitude` defaults to 0.1 ln(factor) + 1. `truncate` rounds the ends of the ramp outwards to integers.
    """

    factor: float
    original_length: int
    fast: float = 32.0
    slow: float = 1.0
    magnitude: float | None = None
    truncate: bool = True

    def __call__(self, frequencies_K: np.ndarray, base: float, ctx: Context) -> tuple[np.ndarray, float]:
        width = 2 * len(frequencies_K)
        low, high = self.pair(self.fast, width, base), self.pair(self.slow, width, base)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, width - 1)
        ramp_K = np.clip((np.arange(width // 2) - low) / max(high - low, 1e-3), 0.0, 1.0).astype(np.float32)
        magnitude = 0.1 * math.log(self.factor) + 1.0 if self.magnitude is None else self.magnitude
        return frequencies_K * (1 - ramp_K) + frequencies_K / np.float32(self.factor) * ramp_K, magnitude

    def pair(self, turns: float, width: int, base: float) -> float:
        """Returns the (fractional) i whose frequency makes `turns` turns in original_length."""
        return width * math.log(self.original_length / (turns * 2 * math.pi)) / (2 * math.log(base))

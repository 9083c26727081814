"""4-bit NormalFloat weights with doubly quantized scales (QLoRA, Dettmers et al. 2023), for frozen kernels: 0.516 bytes a weight.

The weights of a matrix are numbers -1 .. 1 times the largest absolute value of their block of 64. Each number is the nearest of
16 quantiles of a normal distribution; the scales, less their mean, are 8-bit integers times the largest of 256 of them. (The
paper's scales are 8-bit floats, which err as much.)
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

BLOCK, SCALES = 64, 256
# Appendix E of the paper: quantiles of N(0, 1), scaled to -1 .. 1, with an exact zero.
CODES = np.array(
    [
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
        -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
        0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    ],
    np.float32,
)  # fmt: skip
LARGEST = 127


class Nf4(struct.PyTreeNode):
    """An array [*stacked, *own]; its numbers are in order, each matrix of the stack on its own.

    Attributes:
      codes: two numbers a byte, the first in the upper half: uint8 [*stacked, blocks * 32].
      scales: int8 [*stacked, groups, 256], one for each block.
      ranges: float32 [*stacked, groups], of the scales.
      means: float32 [*stacked], of the scales.
      own: the shape without the stacked dims.
      dtype: of the array that it stands for.
    """

    codes: jax.Array
    scales: jax.Array
    ranges: jax.Array
    means: jax.Array
    own: tuple[int, ...] = struct.field(pytree_node=False)
    dtype: Any = struct.field(pytree_node=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array."""
        return (*self.codes.shape[:-1], *self.own)

    @property
    def sharding(self) -> jax.sharding.Sharding:
        """Where it is: whole on every device."""
        return self.codes.sharding

    def astype(self, dtype: Any) -> jax.Array:
        """The array itself, in a dtype."""
        stacked, blocks = self.codes.shape[:-1], self.codes.shape[-1] * 2 // BLOCK
        numbers = jnp.stack([self.codes >> 4, self.codes & 15], axis=-1).reshape(*stacked, blocks, BLOCK)
        scales = self.scales.astype(jnp.float32) * (self.ranges / LARGEST)[..., None] + self.means[..., None, None]
        scales = scales.reshape(*stacked, -1)[..., :blocks, None]
        flat = (jnp.asarray(CODES)[numbers] * scales).reshape(*stacked, -1)
        return flat[..., : math.prod(self.own)].reshape(self.shape).astype(dtype)


def to_nf4(x: jax.Array, stacked: int = 0) -> Nf4:
    """Rounds an array; the first `stacked` dims count matrices that are rounded on their own.

    The error of a number is at most 0.152 of its block's largest, and that of the scale.
    """
    lead, own = x.shape[:stacked], x.shape[stacked:]
    flat = x.astype(jnp.float32).reshape(*lead, -1)
    blocks = pad_last(flat, BLOCK).reshape(*lead, -1, BLOCK)
    largest = jnp.max(jnp.abs(blocks), axis=-1)
    means = jnp.mean(largest, axis=-1)
    groups = pad_last(largest - means[..., None], SCALES).reshape(*lead, -1, SCALES)
    ranges = jnp.max(jnp.abs(groups), axis=-1)
    scales = jnp.round(groups / jnp.where(ranges > 0, ranges, 1.0)[..., None] * LARGEST).astype(jnp.int8)
    middles = jnp.asarray((CODES[1:] + CODES[:-1]) / 2)
    numbers = jnp.searchsorted(middles, blocks / jnp.where(largest > 0, largest, 1.0)[..., None]).astype(jnp.uint8)
    numbers = numbers.reshape(*lead, -1, 2)
    return Nf4(numbers[..., 0] << 4 | numbers[..., 1], scales, ranges, means, own, x.dtype)


def pad_last(x: jax.Array, multiple: int) -> jax.Array:
    """Appends zeros to the last axis, up to a multiple."""
    return jnp.pad(x, [*[(0, 0)] * (x.ndim - 1), (0, -x.shape[-1] % multiple)])

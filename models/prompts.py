"""Prompt tuning of encoders (Lester et al. 2021): learned vectors before the input.

An encoder reads in both directions, so what a prompt becomes depends on the text: it is a part of the row. In a causal decoder it
does not, and the prompt's keys and values are those of virtual tokens (`attention.SelfAttention`, `t5x_like.peft.prompt`).
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from t5x_like.models.context import TokenInfo
from t5x_like.models.linear import Initializer, with_axes


class Prompt(nn.Module):
    """`count` vectors before each segment of a row, at positions 0 to count - 1; the tokens come after them.

    A row may have `segments` segments, for each of which it has a prompt of its own; all outputs of a row with more are NaN.
    """

    count: int
    segments: int = 1
    vectors_init: Initializer = nn.initializers.uniform(0.5)

    @property
    def tokens(self) -> int:
        """The number of vectors in a row."""
        return self.count * self.segments

    @nn.compact
    def __call__(self, x_BLD: jax.Array, info: TokenInfo) -> tuple[jax.Array, TokenInfo]:
        """Returns (vectors, information) of the prompts and the tokens, in this order."""
        init = with_axes(self.vectors_init, ("position", "embed"))
        vectors_PD = self.param("vectors", init, (self.count, x_BLD.shape[-1])).astype(x_BLD.dtype)
        rows, segments_BL = len(x_BLD), info.segments_BL
        x_BLD = jnp.where(jnp.max(segments_BL, axis=1)[:, None, None] <= self.segments, x_BLD, jnp.nan)
        prompt_BPD = jnp.broadcast_to(jnp.tile(vectors_PD, (self.segments, 1)), (rows, self.tokens, x_BLD.shape[-1]))
        positions_P = jnp.tile(jnp.arange(self.count, dtype=jnp.int32), self.segments)
        segment_P = jnp.repeat(jnp.arange(1, self.segments + 1, dtype=jnp.int32), self.count)

        def before(own_P: jax.Array, x_BL: jax.Array) -> jax.Array:
            return jnp.concatenate([jnp.broadcast_to(own_P, (rows, self.tokens)).astype(x_BL.dtype), x_BL], axis=1)

        # A segment that the row lacks has no prompt.
        real_BP = segment_P <= jnp.max(segments_BL, axis=1, keepdims=True)
        both = info.replace(
            positions_BL=before(positions_P, info.positions_BL + self.count),
            segments_BL=jnp.concatenate(
                [jnp.where(real_BP, segment_P, 0).astype(segments_BL.dtype), segments_BL], axis=1
            ),
        )
        return jnp.concatenate([prompt_BPD, x_BLD], axis=1), both

"""Attention with Transformer-XL's relative positions (Dai et al. 2019), as in Gopher, Chinchilla and XLNet."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from t5x_like.models.attention import SelfAttention
from t5x_like.models.context import Context
from t5x_like.models.linear import Dense, Initializer, with_axes
from t5x_like.models.positions import rotary_frequencies


class RelativeAttention(SelfAttention):
    """scores = (q + u) k + (q + v) r(i - j), r = [sin, cos] of the distance times a matrix; u, v are learned per head.

    With `segment_bias`, + (q + s) e, where e is one of two learned vectors, chosen by whether query and key have the same
    `types_BL` (XLNet).
    """

    segment_bias: bool = False
    bias_init: Initializer = nn.initializers.normal(0.02)

    def setup(self) -> None:
        super().setup()
        self.relative = Dense(
            (self.num_heads, self.head_dim), ("embed", "heads", "head_dim"), kernel_init=self.kernel_init
        )
        shape, names = (self.num_heads, self.head_dim), ("heads", "head_dim")
        init = with_axes(self.bias_init, names)
        self.content_bias = self.param("content_bias", init, shape)
        self.distance_bias = self.param("distance_bias", init, shape)
        if self.segment_bias:
            self.type_bias = self.param("type_bias", init, shape)
            pair = with_axes(self.bias_init, ("relpos", *names))
            self.type_table = self.param("type_table", pair, (2, *shape))

    def add_position_bias(self, q_BLHK: jax.Array, ctx: Context, width: int) -> tuple[jax.Array, jax.Array]:
        if ctx.virtual:
            raise ValueError(
                f"virtual_tokens={ctx.virtual}: RelativeAttention has no distances of virtual tokens; set it to 0"
            )
        scale = self.head_dim**-0.5 if self.scale is None else self.scale
        dtype = q_BLHK.dtype
        bias_BHLM = scale * self.distance_scores(q_BLHK + self.distance_bias.astype(dtype), ctx, width)
        types_BL, types_BM = ctx.queries.types_BL, ctx.keys.types_BL
        if self.segment_bias and types_BL is not None and types_BM is not None:
            bias_BHLM += scale * self.type_scores(q_BLHK + self.type_bias.astype(dtype), types_BL, types_BM)
        if ctx.bias_AHLM is not None:
            bias_BHLM += ctx.bias_AHLM
        return q_BLHK + self.content_bias.astype(dtype), bias_BHLM

    def distance_scores(self, q_BLHK: jax.Array, ctx: Context, width: int) -> jax.Array:
        """Returns q r(i - j) for every query and key, float32 [B, H, L, M]."""
        key_length = ctx.keys.positions_BL.shape[1]
        # In a decoding step no key comes after the one query; in a prompt's prefix some do.
        step = ctx.decode and q_BLHK.shape[1] == 1
        back_N = np.arange(key_length - 1, -1 if step else -key_length, -1, dtype=np.float32)
        angles_NK = back_N[:, None] * rotary_frequencies(width, 1e4)
        r_NHK = self.relative(jnp.concatenate([np.sin(angles_NK), np.cos(angles_NK)], axis=-1).astype(q_BLHK.dtype))
        scores_BHLN = jnp.einsum("BLHK,NHK->BHLN", q_BLHK, r_NHK, preferred_element_type=jnp.float32)
        if not ctx.decode:
            return shift_scores(scores_BHLN, key_length)
        index_B1LM = jnp.clip(ctx.distances_ALM() + key_length - 1, 0, len(back_N) - 1)[:, None]
        return jnp.take_along_axis(scores_BHLN, index_B1LM, axis=-1)

    def type_scores(self, q_BLHK: jax.Array, types_BL: jax.Array, types_BM: jax.Array) -> jax.Array:
        """Returns q e[0] where query and key have the same type, q e[1] elsewhere: float32 [B, H, L, M]."""
        same_B1LM = (types_BL[:, :, None] == types_BM[:, None, :])[:, None]
        table = self.type_table.astype(q_BLHK.dtype)
        scores = jnp.einsum("BLHK,NHK->NBHL", q_BLHK, table, preferred_element_type=jnp.float32)[..., None]
        return jnp.where(same_B1LM, scores[0], scores[1])


def shift_scores(scores_BHLN: jax.Array, key_length: int) -> jax.Array:
    """Picks the score at distance j - i for query i and key j: distances -(M-1) .. M-1 (N = 2M - 1) to [B, H, L, M].

    Row i starts one element before row i - 1. Rows are padded to 2M and read as rows of 2M - 1, which does this for all of
    them (Dai et al. 2019, appendix B). L is M, or a multiple of M if there are several streams of queries.
    """
    rows, heads, length, count = scores_BHLN.shape
    flat = jnp.pad(scores_BHLN, ((0, 0), (0, 0), (0, 0), (0, 1))).reshape(rows, heads, length // key_length, -1)
    flat = flat[..., key_length - 1 : key_length - 1 + key_length * count]
    flat = flat.reshape(rows, heads, length // key_length, key_length, count)[..., :key_length]
    return flat.reshape(rows, heads, length, key_length)

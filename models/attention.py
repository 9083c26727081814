"""Self- and cross-attention with any number of key/value heads (MHA, MQA, GQA)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from t5x_like.models import kernels, masks
from t5x_like.models.context import Context
from t5x_like.models.linear import DEFAULT_INIT, Dense, Initializer, constrain, with_axes
from t5x_like.models.positions import rotate
from t5x_like.models.quantized import dequantize

CACHES = ("key_cache", "value_cache")  # [B, G, M, K], or a tree of such arrays


class Attention(nn.Module):
    """The base of self- and cross-attention: four projections and the attention kernel.

    `num_kv_heads` defaults to `num_heads` (multi-head); 1 is multi-query, a divisor of `num_heads` is grouped-query
    attention. `scale` multiplies the scores and defaults to head_dim ** -0.5; `soft_cap` bounds them (Gemma 2). `qk_norm`
    normalises queries and keys before the rotation (Qwen 3, OLMo 2). `out_bias` defaults to `use_bias`, `query_init` and
    `out_init` to `kernel_init`.
    """

    num_heads: int
    head_dim: int
    num_kv_heads: int | None = None
    use_bias: bool = False
    out_bias: bool | None = None
    scale: float | None = None
    soft_cap: float | None = None
    qk_norm: nn.Module | None = None
    dropout: float = 0.0
    kernel: Callable = kernels.automatic
    kernel_init: Initializer = DEFAULT_INIT
    query_init: Initializer | None = None
    out_init: Initializer | None = None

    def setup(self) -> None:
        kv_heads = self.num_kv_heads or self.num_heads
        if self.num_heads % kv_heads:
            raise ValueError(
                f"num_heads={self.num_heads} is not a multiple of num_kv_heads={kv_heads}; "
                "every key/value head serves the same number of query heads"
            )
        self.query = self.projection(self.num_heads, "heads", self.query_init)
        self.key = self.projection(kv_heads, "kv_heads", None)
        self.value = self.projection(kv_heads, "kv_heads", None)
        self.drop = nn.Dropout(self.dropout, deterministic=False)
        if self.qk_norm is not None:
            self.query_norm, self.key_norm = self.qk_norm.copy(), self.qk_norm.copy()

    def projection(self, heads: int, axis: str, init: Initializer | None) -> Dense:
        """The projection of the model width to `heads` heads."""
        return Dense(
            features=(heads, self.head_dim),
            axes=("embed", axis, "head_dim"),
            use_bias=self.use_bias,
            kernel_init=init or self.kernel_init,
        )

    def project_queries(self, x_BLD: jax.Array) -> jax.Array:
        """Returns queries [B, L, H, K]."""
        q_BLHK = self.query(x_BLD)
        if self.qk_norm is not None:
            q_BLHK = self.query_norm(q_BLHK)
        return constrain(q_BLHK, "batch", "length", "heads", "head_dim")

    def project_keys_values(self, x_BMD: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns keys and values [B, M, G, K]."""
        axes = ("batch", "length", "kv_heads", "head_dim")
        k_BMGK = self.key(x_BMD)
        if self.qk_norm is not None:
            k_BMGK = self.key_norm(k_BMGK)
        return constrain(k_BMGK, *axes), constrain(self.value(x_BMD), *axes)

    def attend(
        self,
        q_BLHK: jax.Array,
        k_BMGK: jax.Array,
        v_BMGK: jax.Array,
        bias_AHLM: jax.Array | None,
        mask_ALM: jax.Array,
        train: bool,
        causal_BL: jax.Array | None = None,
    ) -> jax.Array:
        """Runs the kernel (see `kernels`); returns [B, L, H, K]."""
        drop = self.drop if train and self.dropout else None
        scale = self.head_dim**-0.5 if self.scale is None else self.scale
        y_BLHK = self.kernel(q_BLHK, k_BMGK, v_BMGK, bias_AHLM, mask_ALM, scale, drop, self.soft_cap, causal_BL)
        return constrain(y_BLHK, "batch", "length", "heads", "head_dim")

    def output(self, width: int) -> Dense:
        """The projection of all heads to the model width."""
        return Dense(
            features=(width,),
            axes=("heads", "head_dim", "embed"),
            inputs=2,
            use_bias=self.use_bias if self.out_bias is None else self.out_bias,
            kernel_init=self.out_init or self.kernel_init,
            name="out",
        )


class SelfAttention(Attention):
    """Attention of a sequence to itself; `mask` (see `masks`) tells which keys a query may see.

    With virtual tokens in the context (prefix tuning, Li & Liang 2021), their keys and values are parameters, which every query
    sees besides, in every segment of a row. They are not in the decoding cache, so a row's cache holds its tokens alone.
    """

    mask: Callable = masks.causal
    prefix_init: Initializer = nn.initializers.normal(0.02)

    @nn.compact
    def __call__(self, x_BLD: jax.Array, ctx: Context) -> jax.Array:
        q_BLHK = self.project_queries(x_BLD)
        # A second stream of queries (XLNet) has no keys. In decoding the cache holds the earlier keys.
        keys_BMD = x_BLD if ctx.decode else x_BLD[:, : ctx.keys.positions_BL.shape[1]]
        k_BMGK, v_BMGK = self.project_keys_values(keys_BMD)
        if ctx.rotary is not None:
            q_BLHK, k_BMGK = rotate(q_BLHK, ctx.rotary), rotate(k_BMGK, ctx.rotary)
        if ctx.cache_index_BL is not None:
            length = ctx.keys.positions_BL.shape[1]
            k_BMGK = self.update_cache(CACHES[0], k_BMGK, length, ctx.cache_index_BL, ctx.cache_format)
            v_BMGK = self.update_cache(CACHES[1], v_BMGK, length, ctx.cache_index_BL, ctx.cache_format)
        mask_ALM = self.mask(ctx.queries, ctx.keys) & masks.same_segment(ctx.queries, ctx.keys)
        q_BLHK, bias_AHLM = self.add_position_bias(q_BLHK, ctx, x_BLD.shape[-1])
        if ctx.virtual:
            k_BMGK, v_BMGK, mask_ALM = self.add_virtual_tokens(k_BMGK, v_BMGK, mask_ALM, ctx.virtual)
        aligned = not ctx.decode and q_BLHK.shape[1] == k_BMGK.shape[1]
        causal = self.mask is masks.causal and aligned and ctx.keys.prefix_BL is None and not ctx.virtual
        causal_BL = ctx.keys.segments_BL if causal else None
        y_BLHK = self.attend(q_BLHK, k_BMGK, v_BMGK, bias_AHLM, mask_ALM, ctx.train, causal_BL)
        return self.output(x_BLD.shape[-1])(y_BLHK)

    def add_position_bias(self, q_BLHK: jax.Array, ctx: Context, width: int) -> tuple[jax.Array, jax.Array | None]:
        """Returns (queries, bias_AHLM added to the scores); `width` is the model's."""
        return q_BLHK, ctx.bias_AHLM

    def add_virtual_tokens(
        self, k_BMGK: jax.Array, v_BMGK: jax.Array, mask_ALM: jax.Array, count: int
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns (keys, values, mask) with those of `count` virtual tokens before them."""

        def before(name: str, x_BMGK: jax.Array) -> jax.Array:
            init = with_axes(self.prefix_init, ("position", "kv_heads", "head_dim"))
            own_MGK = self.param(name, init, (count, *x_BMGK.shape[2:])).astype(x_BMGK.dtype)
            return jnp.concatenate([jnp.broadcast_to(own_MGK, (len(x_BMGK), *own_MGK.shape)), x_BMGK], axis=1)

        visible_ALM = jnp.ones((*mask_ALM.shape[:2], count), bool)
        mask_ALM = jnp.concatenate([visible_ALM, mask_ALM], axis=2)
        return before("prefix_key", k_BMGK), before("prefix_value", v_BMGK), mask_ALM

    def update_cache(
        self, name: str, new_BLGK: jax.Array, length: int, index_BL: jax.Array, cache_format: Callable | None
    ) -> jax.Array:
        """Writes `new_BLGK` at `index_BL` of a cache of `length` tokens; returns the whole cache [B, M, G, K].

        It is stored as the products of `kernels.reference` read it, [B, G, M, K], so that no step transposes it. A scale of
        `cache_format` is stored as a vector of one number.
        """
        new = new_BLGK if cache_format is None else cache_format(new_BLGK)

        def zeros(x_BLGK: jax.Array) -> jax.Array:
            rows, _, groups, depth = x_BLGK.shape
            return jnp.zeros((rows, groups, length, depth), x_BLGK.dtype)

        cache = self.variable("cache", name, lambda: jax.tree.map(zeros, new))
        cache.value = jax.tree.map(lambda x, new: write_heads(x, new, index_BL), cache.value, new)
        return jnp.swapaxes(dequantize(cache.value), 1, 2)


def write_heads(cache_BGMK: jax.Array, new_BLGK: jax.Array, index_BL: jax.Array) -> jax.Array:
    """Writes new[b, i, g] to cache[b, g, index_BL[b, i]]; an index beyond the end is left out."""

    def write(row_GMK: jax.Array, new_LGK: jax.Array, index_L: jax.Array) -> jax.Array:
        return row_GMK.at[:, index_L].set(jnp.swapaxes(new_LGK, 0, 1), mode="drop")

    return jax.vmap(write)(cache_BGMK, new_BLGK, index_BL)


class CrossAttention(Attention):
    """Attention to the encoder's output, without positions; a query sees every key of its segment."""

    @nn.compact
    def __call__(self, x_BLD: jax.Array, ctx: Context) -> jax.Array:
        if ctx.memory is None:
            raise ValueError("CrossAttention has no encoder output; set blocks.Block.cross only in an EncoderDecoder")
        mask_ALM = masks.same_segment(ctx.queries, ctx.memory)
        k_BMGK, v_BMGK = self.memory_keys_values(ctx)
        y_BLHK = self.attend(self.project_queries(x_BLD), k_BMGK, v_BMGK, None, mask_ALM, ctx.train)
        return self.output(x_BLD.shape[-1])(y_BLHK)

    def memory_keys_values(self, ctx: Context) -> tuple[jax.Array, jax.Array]:
        """Returns keys and values of the encoder's output: computed once, then read from the cache in decoding."""
        if ctx.memory_BMD is None:
            k_BGMK, v_BGMK = (dequantize(self.get_variable("cache", name)) for name in CACHES)
            return jnp.swapaxes(k_BGMK, 1, 2), jnp.swapaxes(v_BGMK, 1, 2)
        k_BMGK, v_BMGK = self.project_keys_values(ctx.memory_BMD)
        if not ctx.decode:
            return k_BMGK, v_BMGK
        new = k_BMGK, v_BMGK
        if ctx.cache_format is not None:
            new = ctx.cache_format(k_BMGK), ctx.cache_format(v_BMGK)
        for name, x in zip(CACHES, new, strict=True):
            self.put_variable("cache", name, jax.tree.map(lambda x_BMGK: jnp.swapaxes(x_BMGK, 1, 2), x))
        return dequantize(new[0]), dequantize(new[1])

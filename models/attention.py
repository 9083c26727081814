"""Self- and cross-attention with any number of key/value heads: MHA, MQA and GQA are one module."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from t5x_like.models import kernels, masks
from t5x_like.models.context import Context
from t5x_like.models.linear import DEFAULT_INIT, Dense, Initializer, constrain
from t5x_like.models.positions import rotate


class Attention(nn.Module):
    """What self- and cross-attention share: four projections and the kernel between them.

    `num_kv_heads` defaults to `num_heads` (multi-head); 1 is multi-query, a divisor between is grouped-query attention.
    `scale` multiplies the scores and defaults to head_dim ** -0.5; `soft_cap` bounds them (Gemma 2). `qk_norm` norms
    queries and keys before they are rotated (Qwen 3, OLMo 2). `out_bias` defaults to `use_bias`, `query_init` and
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

    def setup(self):
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
        return Dense(
            features=(heads, self.head_dim),
            axes=("embed", axis, "head_dim"),
            use_bias=self.use_bias,
            kernel_init=init or self.kernel_init,
        )

    def queries(self, x_BLD):
        q_BLHK = self.query(x_BLD)
        if self.qk_norm is not None:
            q_BLHK = self.query_norm(q_BLHK)
        return constrain(q_BLHK, "batch", "length", "heads", "head_dim")

    def keys_values(self, x_BMD):
        axes = ("batch", "length", "kv_heads", "head_dim")
        k_BMGK = self.key(x_BMD)
        if self.qk_norm is not None:
            k_BMGK = self.key_norm(k_BMGK)
        return constrain(k_BMGK, *axes), constrain(self.value(x_BMD), *axes)

    def attend(self, q_BLHK, k_BMGK, v_BMGK, bias_AHLM, mask_ALM, train: bool):
        drop = self.drop if train and self.dropout else None
        scale = self.head_dim**-0.5 if self.scale is None else self.scale
        y_BLHK = self.kernel(q_BLHK, k_BMGK, v_BMGK, bias_AHLM, mask_ALM, scale, drop, self.soft_cap)
        return constrain(y_BLHK, "batch", "length", "heads", "head_dim")

    def output(self, width: int) -> Dense:
        return Dense(
            features=(width,),
            axes=("heads", "head_dim", "embed"),
            inputs=2,
            use_bias=self.use_bias if self.out_bias is None else self.out_bias,
            kernel_init=self.out_init or self.kernel_init,
            name="out",
        )


class SelfAttention(Attention):
    """Attention of a sequence to itself; `mask` says which of its slots a query may see."""

    mask: Callable = masks.causal

    @nn.compact
    def __call__(self, x_BLD: jax.Array, ctx: Context) -> jax.Array:
        q_BLHK = self.queries(x_BLD)
        # All of x, unless a second stream of queries stands behind it (XLNet); in decoding the cache holds the rest.
        k_BMGK, v_BMGK = self.keys_values(x_BLD if ctx.decode else x_BLD[:, : ctx.keys.positions_BL.shape[1]])
        if ctx.rotary is not None:
            q_BLHK, k_BMGK = rotate(q_BLHK, ctx.rotary), rotate(k_BMGK, ctx.rotary)
        if ctx.decode:
            k_BMGK, v_BMGK = self.cached("key_cache", k_BMGK, ctx), self.cached("value_cache", v_BMGK, ctx)
        mask_ALM = self.mask(ctx.queries, ctx.keys) & masks.same_segment(ctx.queries, ctx.keys)
        q_BLHK, bias_AHLM = self.biased(q_BLHK, ctx, x_BLD.shape[-1])
        y_BLHK = self.attend(q_BLHK, k_BMGK, v_BMGK, bias_AHLM, mask_ALM, ctx.train)
        return self.output(x_BLD.shape[-1])(y_BLHK)

    def biased(self, q_BLHK: jax.Array, ctx: Context, width: int) -> tuple[jax.Array, jax.Array | None]:
        """The queries that meet the keys, and what is added to their scores; `width` is the model's."""
        return q_BLHK, ctx.bias_AHLM

    def cached(self, name: str, new_BLGK: jax.Array, ctx: Context) -> jax.Array:
        """Writes `new_BLGK` at the context's slot; returns the whole cache."""
        rows, _, groups, depth = new_BLGK.shape
        shape = (rows, ctx.keys.positions_BL.shape[1], groups, depth)
        cell = self.variable("cache", name, jnp.zeros, shape, new_BLGK.dtype)
        cell.value = jax.lax.dynamic_update_slice(cell.value, new_BLGK, (0, ctx.slot, 0, 0))
        return cell.value


class CrossAttention(Attention):
    """Attention to the encoder's output; knows no positions, sees every key of its own segment."""

    @nn.compact
    def __call__(self, x_BLD: jax.Array, ctx: Context) -> jax.Array:
        mask_ALM = masks.same_segment(ctx.queries, ctx.memory)
        k_BMGK, v_BMGK = self.memory(ctx)
        y_BLHK = self.attend(self.queries(x_BLD), k_BMGK, v_BMGK, None, mask_ALM, ctx.train)
        return self.output(x_BLD.shape[-1])(y_BLHK)

    def memory(self, ctx: Context) -> tuple[jax.Array, jax.Array]:
        """Keys and values of the encoder's output: worked out once, then read from the cache in decoding."""
        if ctx.memory_BMD is None:
            return self.get_variable("cache", "key_cache"), self.get_variable("cache", "value_cache")
        k_BMGK, v_BMGK = self.keys_values(ctx.memory_BMD)
        if ctx.decode:
            self.put_variable("cache", "key_cache", k_BMGK)
            self.put_variable("cache", "value_cache", v_BMGK)
        return k_BMGK, v_BMGK

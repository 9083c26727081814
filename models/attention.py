"""Self- and cross-attention with any number of key/value heads: MHA, MQA and GQA are one module."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from models import kernels, masks
from models.context import Context
from models.linear import DEFAULT_INIT, Dense, Initializer, constrain
from models.positions import rotate


class Attention(nn.Module):
    """What self- and cross-attention share: four projections and the kernel between them.

    `num_kv_heads` defaults to `num_heads` (multi-head); 1 is multi-query, a divisor between is grouped-query attention.
    `scale` multiplies the scores and defaults to head_dim ** -0.5. `query_init` and `out_init` default to `kernel_init`.
    """

    num_heads: int
    head_dim: int
    num_kv_heads: int | None = None
    use_bias: bool = False
    scale: float | None = None
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

    def projection(self, heads: int, axis: str, init: Initializer | None) -> Dense:
        return Dense(
            features=(heads, self.head_dim),
            axes=("embed", axis, "head_dim"),
            use_bias=self.use_bias,
            kernel_init=init or self.kernel_init,
        )

    def queries(self, x_BLD):
        return constrain(self.query(x_BLD), "batch", "length", "heads", "head_dim")

    def keys_values(self, x_BMD):
        axes = ("batch", "length", "kv_heads", "head_dim")
        return constrain(self.key(x_BMD), *axes), constrain(self.value(x_BMD), *axes)

    def attend(self, q_BLHK, k_BMGK, v_BMGK, bias_AHLM, mask_ALM, train: bool):
        drop = self.drop if train and self.dropout else None
        scale = self.head_dim**-0.5 if self.scale is None else self.scale
        y_BLHK = self.kernel(q_BLHK, k_BMGK, v_BMGK, bias_AHLM, mask_ALM, scale, drop)
        return constrain(y_BLHK, "batch", "length", "heads", "head_dim")

    def output(self, width: int) -> Dense:
        return Dense(
            features=(width,),
            axes=("heads", "head_dim", "embed"),
            inputs=2,
            use_bias=self.use_bias,
            kernel_init=self.out_init or self.kernel_init,
            name="out",
        )


class SelfAttention(Attention):
    """Attention of a sequence to itself; `mask` says which of its slots a query may see."""

    mask: Callable = masks.causal

    @nn.compact
    def __call__(self, x_BLD: jax.Array, ctx: Context) -> jax.Array:
        q_BLHK = self.queries(x_BLD)
        k_BMGK, v_BMGK = self.keys_values(x_BLD)
        if ctx.angles_BLK is not None:
            q_BLHK, k_BMGK = rotate(q_BLHK, ctx.angles_BLK), rotate(k_BMGK, ctx.angles_BLK)
        if ctx.decode:
            k_BMGK, v_BMGK = self.cached("key_cache", k_BMGK, ctx), self.cached("value_cache", v_BMGK, ctx)
        mask_ALM = self.mask(ctx.queries, ctx.keys) & masks.same_segment(ctx.queries, ctx.keys)
        y_BLHK = self.attend(q_BLHK, k_BMGK, v_BMGK, ctx.bias_AHLM, mask_ALM, ctx.train)
        return self.output(x_BLD.shape[-1])(y_BLHK)

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

"""The context: everything a sublayer may read besides its input, as one pytree.

A sublayer that keeps state between decoding steps (attention's keys and values, the state of a recurrence) stores it with
`self.variable("cache", ...)`, batch axis first, if `ctx.decode`. It advances the state by the tokens of the call whose segment
is not 0: prompts of different lengths are padded on the right. A recurrence resets its state where `ctx.queries.positions_BL`
is 0, the first token of a segment.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct


class TokenInfo(struct.PyTreeNode):
    """Position, segment and role of every token of a row. Segments are 1, 2, 3, ...; padding has segment 0.

    Positions count from 0 in every segment and are contiguous there.
    """

    positions_BL: jax.Array
    segments_BL: jax.Array
    prefix_BL: jax.Array | None = None  # 1 where attention is bidirectional (prefix LM)
    types_BL: jax.Array | None = None  # which text of a pair a token belongs to, if attention uses it (XLNet)
    order_BL: jax.Array | None = None  # rank at which a token is predicted (permutation LM), see `masks.permuted`


class Context(struct.PyTreeNode):
    """Input shared by all sublayers: information on queries and keys, biases, and the static flag `train`."""

    queries: TokenInfo
    keys: TokenInfo  # the queries themselves, or in decoding all tokens of the cache
    memory_BMD: jax.Array | None = None  # encoder output; None in decoding steps, which read its cached keys and values
    memory: TokenInfo | None = None
    bias_AHLM: jax.Array | None = None  # added to self-attention scores
    rotary: tuple[jax.Array, jax.Array] | None = None  # cos_BLK, sin_BLK of the queries, K = half the rotated width
    cache_index_BL: jax.Array | None = None  # where in the cache each token is written; None outside decoding
    train: bool = struct.field(pytree_node=False, default=False)
    virtual: int = struct.field(
        pytree_node=False, default=0
    )  # keys before those of `keys`, at positions 0, 1, ..., see `attention`
    contiguous: bool = struct.field(
        pytree_node=False, default=True
    )  # whether the tokens of a segment are neighbours in the row
    cache_format: Callable | None = struct.field(pytree_node=False, default=None)  # see `architectures`

    @property
    def decode(self) -> bool:
        """Whether the call reads and writes the `cache` collection."""
        return self.cache_index_BL is not None

    def distances_ALM(self) -> jax.Array:
        """Key position minus query position inside a segment, int32; M counts virtual keys, which come first."""
        if self.virtual:
            real_ALM = self.replace(virtual=0).distances_ALM()
            virtual_BLM = jnp.arange(self.virtual, dtype=jnp.int32) - self.queries.positions_BL[:, :, None]
            real_BLM = jnp.broadcast_to(real_ALM, (*virtual_BLM.shape[:2], real_ALM.shape[2]))
            return jnp.concatenate([virtual_BLM, real_BLM], axis=2)
        if self.decode or not self.contiguous:
            return self.keys.positions_BL[:, None, :] - self.queries.positions_BL[:, :, None]
        # Segments are contiguous, so the distance in the row is the distance in the segment, for all rows at once.
        key_length = self.keys.positions_BL.shape[1]
        index_M = jnp.arange(key_length, dtype=jnp.int32)
        # A second stream of queries (XLNet) has the positions of the first.
        index_L = jnp.tile(index_M, self.queries.positions_BL.shape[1] // key_length)
        return (index_M[None, :] - index_L[:, None])[None]

    def key_positions_BM(self) -> jax.Array:
        """The positions of the keys, virtual ones first."""
        real_BM = self.keys.positions_BL
        virtual_BM = jnp.broadcast_to(jnp.arange(self.virtual, dtype=real_BM.dtype), (len(real_BM), self.virtual))
        return jnp.concatenate([virtual_BM, real_BM], axis=1) if self.virtual else real_BM


def token_info(batch: Mapping[str, jax.Array], side: str, first: int = 0) -> TokenInfo:
    """Returns the token information of one side (`encoder` or `decoder`) of a batch, whose positions begin at `first`."""
    positions_BL = batch[f"{side}_positions"]
    positions_BL = positions_BL + first if first else positions_BL
    return TokenInfo(positions_BL, batch[f"{side}_segment_ids"], batch.get(f"{side}_prefix"))


def append_to_cache(module: nn.Module, queries: TokenInfo, decode_length: int) -> tuple[TokenInfo, jax.Array]:
    """Appends the tokens of `queries`, without padding, to each row of the module's cache, which has a length per row.

    Returns (information on all `decode_length` tokens of the cache, the index [B, L] at which each query is written).
    """
    rows, length = queries.positions_BL.shape
    lengths = module.variable("cache", "lengths", lambda: jnp.zeros(rows, jnp.int32))
    real_BL = queries.segments_BL > 0
    index_BL = lengths.value[:, None] + jnp.cumsum(real_BL, axis=1, dtype=jnp.int32) - 1
    index_BL = jnp.where(real_BL, index_BL, decode_length)
    new = {"positions": queries.positions_BL, "segments": queries.segments_BL}
    if queries.prefix_BL is not None or module.has_variable("cache", "prefix"):
        prefix_BL = queries.prefix_BL
        new["prefix"] = jnp.zeros((rows, length), jnp.int32) if prefix_BL is None else prefix_BL
    stored = {}
    for name, new_BL in new.items():
        cache = module.variable("cache", name, lambda: jnp.zeros((rows, decode_length), jnp.int32))
        cache.value = write_rows(cache.value, new_BL.astype(jnp.int32), index_BL)
        stored[name] = cache.value
    lengths.value += jnp.sum(real_BL, axis=1, dtype=jnp.int32)
    return TokenInfo(stored["positions"], stored["segments"], stored.get("prefix")), index_BL


def write_rows(cache: jax.Array, new: jax.Array, index_BL: jax.Array) -> jax.Array:
    """Writes new[b, i] to cache[b, index_BL[b, i]]; an index beyond the end is left out."""
    return jax.vmap(lambda row, values, index_L: row.at[index_L].set(values, mode="drop"))(cache, new, index_BL)

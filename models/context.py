"""What a sublayer may know besides its input: the context, one pytree handed down unchanged."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct


@struct.dataclass
class Slots:
    """What stands in each slot of a row. Padding is where the segment is 0; segments are 1, 2, 3, ...

    Positions count from 0 in every segment and are contiguous there.
    """

    positions_BL: jax.Array
    segments_BL: jax.Array
    prefix_BL: jax.Array | None = None  # 1 where attention is bidirectional (prefix LM)
    types_BL: jax.Array | None = None  # which of a pair's texts a token belongs to, where attention asks (XLNet)
    order_BL: jax.Array | None = None  # what is predicted when (permutation LM), see `masks.permuted`


@struct.dataclass
class Context:
    """Everything sublayers share: who asks, who may be seen, biases, and the static flag `train`."""

    queries: Slots
    keys: Slots  # the queries themselves, or in decoding the slots of the cache
    memory_BMD: jax.Array | None = None  # encoder output; None in decoding steps, where its keys are cached
    memory: Slots | None = None
    bias_AHLM: jax.Array | None = None  # added to self-attention scores
    rotary: tuple[jax.Array, jax.Array] | None = None  # cos_BLK, sin_BLK of the queries, K = half the rotated width
    slot: jax.Array | None = None  # first cache slot this call writes; None outside decoding
    train: bool = struct.field(pytree_node=False, default=False)

    @property
    def decode(self) -> bool:
        """Whether keys and values are read from and written to the `cache` collection."""
        return self.slot is not None

    def distances_ALM(self) -> jax.Array:
        """Key position minus query position inside a segment, int32."""
        if self.decode:
            return self.keys.positions_BL[:, None, :] - self.queries.positions_BL[:, :, None]
        # Segments are contiguous, so the distance in the row is the distance in the segment, for all rows at once.
        slots = self.keys.positions_BL.shape[1]
        index_M = jnp.arange(slots, dtype=jnp.int32)
        # A second stream of queries (XLNet) stands at the positions of the first.
        index_L = jnp.tile(index_M, self.queries.positions_BL.shape[1] // slots)
        return (index_M[None, :] - index_L[:, None])[None]


def slots(batch, side: str) -> Slots:
    """The slots of one side (`encoder` or `decoder`) of a batch."""
    return Slots(batch[f"{side}_positions"], batch[f"{side}_segment_ids"], batch.get(f"{side}_prefix"))


def cached_keys(module: nn.Module, queries: Slots, decode_length: int) -> tuple[Slots, jax.Array]:
    """Appends `queries` to the module's cache of slots: (all `decode_length` slots, first slot written)."""
    rows, length = queries.positions_BL.shape

    def empty():
        return jnp.zeros((rows, decode_length), jnp.int32)

    index = module.variable("cache", "index", lambda: jnp.zeros((), jnp.int32))
    names = {"positions": queries.positions_BL, "segments": queries.segments_BL}
    if queries.prefix_BL is not None or module.has_variable("cache", "prefix"):
        prefix_BL = queries.prefix_BL
        names["prefix"] = jnp.zeros((rows, length), jnp.int32) if prefix_BL is None else prefix_BL
    slot, stored = index.value, {}
    for name, new_BL in names.items():
        cell = module.variable("cache", name, empty)
        cell.value = jax.lax.dynamic_update_slice(cell.value, new_BL.astype(jnp.int32), (0, slot))
        stored[name] = cell.value
    index.value = slot + length
    return Slots(stored["positions"], stored["segments"], stored.get("prefix")), slot

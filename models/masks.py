"""Attention masks: pure functions `(queries, keys) -> bool[A, L, M]`, True where a query may see a key.

Segments are no concern of theirs: attention always adds `same_segment`.
"""

import dataclasses

import jax
import jax.numpy as jnp

from t5x_like.models.context import Slots


def full(queries: Slots, keys: Slots) -> jax.Array:
    """Every key is seen (encoders)."""
    return jnp.ones((1, queries.positions_BL.shape[1], keys.positions_BL.shape[1]), bool)


def causal(queries: Slots, keys: Slots) -> jax.Array:
    """Keys up to the query's own position are seen; bidirectional among the keys marked as prefix, if any are."""
    seen_BLM = queries.positions_BL[:, :, None] >= keys.positions_BL[:, None, :]
    if keys.prefix_BL is not None:
        seen_BLM |= keys.prefix_BL[:, None, :] > 0
    return seen_BLM


@dataclasses.dataclass(frozen=True)
class Window:
    """Causal, and no further back than the last `size` keys, the query's own among them (Mistral, Jiang et al. 2023)."""

    size: int

    def __call__(self, queries: Slots, keys: Slots) -> jax.Array:
        near_BLM = queries.positions_BL[:, :, None] - keys.positions_BL[:, None, :] < self.size
        return causal(queries, keys) & near_BLM


def permuted(queries: Slots, keys: Slots) -> jax.Array:
    """Keys whose order is at most the query's are seen (XLNet, Yang et al. 2019); all of them where there is no order."""
    if keys.order_BL is None:
        return full(queries, keys)
    return keys.order_BL[:, None, :] <= queries.order_BL[:, :, None]


def same_segment(queries: Slots, keys: Slots) -> jax.Array:
    """Both stand in the same segment, and neither is padding."""
    queries_BL1, keys_B1M = queries.segments_BL[:, :, None], keys.segments_BL[:, None, :]
    return (queries_BL1 == keys_B1M) & (keys_B1M > 0)

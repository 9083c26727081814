"""Attention masks: pure functions `(queries, keys) -> bool[A, L, M]`, True where a query may see a key.

They ignore segments: attention always adds `same_segment`.
"""

import dataclasses

import jax
import jax.numpy as jnp

from t5x_like.models.context import TokenInfo


def full(queries: TokenInfo, keys: TokenInfo) -> jax.Array:
    """Every key is visible (encoders)."""
    return jnp.ones((1, queries.positions_BL.shape[1], keys.positions_BL.shape[1]), bool)


def causal(queries: TokenInfo, keys: TokenInfo) -> jax.Array:
    """Keys up to the query's own position are visible; keys marked as prefix are visible to every query."""
    mask_BLM = queries.positions_BL[:, :, None] >= keys.positions_BL[:, None, :]
    if keys.prefix_BL is not None:
        mask_BLM |= keys.prefix_BL[:, None, :] > 0
    return mask_BLM


@dataclasses.dataclass(frozen=True)
class Window:
    """Causal, restricted to the last `size` keys including the query's own (Mistral, Jiang et al. 2023)."""

    size: int

    def __call__(self, queries: TokenInfo, keys: TokenInfo) -> jax.Array:
        near_BLM = queries.positions_BL[:, :, None] - keys.positions_BL[:, None, :] < self.size
        return causal(queries, keys) & near_BLM


def permuted(queries: TokenInfo, keys: TokenInfo) -> jax.Array:
    """Keys whose order is at most the query's are visible (XLNet, Yang et al. 2019); without an order, all keys."""
    if keys.order_BL is None or queries.order_BL is None:
        return full(queries, keys)
    return keys.order_BL[:, None, :] <= queries.order_BL[:, :, None]


def same_segment(queries: TokenInfo, keys: TokenInfo) -> jax.Array:
    """Query and key are in the same segment, and neither is padding."""
    queries_BL1, keys_B1M = queries.segments_BL[:, :, None], keys.segments_BL[:, None, :]
    return (queries_BL1 == keys_B1M) & (keys_B1M > 0)

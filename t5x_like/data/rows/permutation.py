"""Rows of XLNet's permutation language modelling (Yang et al. 2019, arXiv:1906.08237): tokens and the order of prediction."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from t5x_like.batches import Feature
from t5x_like.data.noise import base as noise
from t5x_like.data.rows.arrays import Batch, cut_documents, segment_sizes
from t5x_like.data.rows.base import FullTextRows


def rank_tokens(
    bits_nL: np.ndarray, positions_nL: np.ndarray, segments_nL: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(rank of every token in its segment, all orders equally likely; size of its segment), int32 [n, L]."""
    rows, width = positions_nL.shape
    row_n1 = np.arange(rows)[:, None]
    # Sort keys consist of segment, random bits and column; sorting values is faster than argsort.
    places = width.bit_length()
    random = min(32, 63 - 2 * places)
    keys_nL = segments_nL.astype(np.int64) << random | bits_nL >> np.uint32(32 - random)
    order = np.sort(keys_nL << places | np.arange(width), axis=1) & (2**places - 1)
    rank = np.empty((rows, width), np.int32)
    rank.reshape(-1)[order + row_n1 * width] = np.arange(width, dtype=np.int32)
    # Segments are contiguous: the tokens before a segment in the row also precede it in the order.
    rank += positions_nL
    rank -= np.arange(width, dtype=np.int32)
    sizes = segment_sizes(segments_nL).astype(np.int32)
    return rank, sizes.reshape(-1).take(segments_nL + row_n1 * sizes.shape[1])


@dataclasses.dataclass(frozen=True)
class PermutationLM(FullTextRows):
    """Every segment in an order drawn each epoch; the last 1 / `partial` of it (rounded up) is predicted.

    The first token of the order is never predicted, because its query sees no token.
    """

    partial: int = 6

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.partial < 1:
            raise ValueError(f"partial={self.partial} is less than 1; XLNet predicts one token of 6")

    @property
    def lengths(self) -> Mapping[str, int]:
        return {"encoder": self.length}

    @property
    def extra_features(self) -> Mapping[str, Feature]:
        return {"encoder_order": Feature((self.length,), needed=True)}

    def fetch(self, index_n: np.ndarray, epoch_n: np.ndarray, seed: int) -> Batch:
        _, tokens, positions, segments = cut_documents(self.cache, self.length, index_n, start=0)
        bits = noise.random_bits(seed, epoch_n, index_n, self.length, purpose=30)
        rank, size = rank_tokens(bits, positions, segments)
        predicted = (rank >= size - -(-size // self.partial)) & (rank > 0)
        return {
            "encoder_input_tokens": tokens,
            "encoder_target_tokens": tokens.copy(),
            "encoder_positions": positions,
            "encoder_segment_ids": segments,
            "encoder_loss_weights": predicted.astype(np.float32),
            "encoder_order": rank,
        }

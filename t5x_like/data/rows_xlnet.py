"""Rows of XLNet's permutation language modelling (Yang et al. 2019, arXiv:1906.08237): in which order tokens are predicted."""

import dataclasses

import numpy as np

from t5x_like.data import noise
from t5x_like.data.rows import Batch, Joined, pieces


def orders(uniform_nL: np.ndarray, positions_nL: np.ndarray, segments_nL: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(rank of every token in its segment, all orders equally likely; tokens of its segment), int32 [n, L]."""
    width = positions_nL.shape[1]
    order = np.argsort(segments_nL + uniform_nL.astype(np.float64), axis=1, kind="stable")
    rank = np.empty((len(order), width), np.int32)
    np.put_along_axis(rank, order, np.broadcast_to(np.arange(width, dtype=np.int32), rank.shape), axis=1)
    # Segments are contiguous: what stands before one in the row comes before it in the order.
    begin_nL = np.arange(width, dtype=np.int32) - positions_nL
    counts = np.zeros((len(order), width + 1), np.int32)
    np.add.at(counts, (np.broadcast_to(np.arange(len(order))[:, None], segments_nL.shape), segments_nL), 1)
    return rank - begin_nL, np.take_along_axis(counts, segments_nL, axis=1)


@dataclasses.dataclass(frozen=True)
class PermutationLM(Joined):
    """Every segment in an order drawn anew each epoch; the last 1 / `partial` of it (rounded up) is predicted.

    The first token of the order never is, because its query sees no word.
    """

    partial: int = 6

    def __post_init__(self):
        super().__post_init__()
        if self.partial < 1:
            raise ValueError(f"partial={self.partial} is less than 1; XLNet predicts one token of 6")

    @property
    def lengths(self) -> dict[str, int]:
        return {"encoder": self.length}

    def fetch(self, index_n: np.ndarray, epoch_n: np.ndarray, seed: int) -> Batch:
        _, tokens, positions, segments = pieces(self.cache, self.length, index_n, start=0)
        rank, size = orders(noise.uniform(seed, epoch_n, index_n, self.length, purpose=30), positions, segments)
        counts = (rank >= size - -(-size // self.partial)) & (rank > 0)
        return {
            "encoder_input_tokens": tokens,
            "encoder_target_tokens": tokens.copy(),
            "encoder_positions": positions,
            "encoder_segment_ids": segments,
            "encoder_loss_weights": counts.astype(np.float32),
            "encoder_order": rank,
        }

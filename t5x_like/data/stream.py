"""The stream of batches: batch k is a pure function of k, so that a run resumes from nothing but its step.

Row r of the run is row `permutation(seed, epoch)[r mod rows]` of epoch r div rows; batch k is rows k B .. (k + 1) B - 1.
The permutation is a keyed bijection (a Feistel network walked back into range), worked out for the rows asked for:
shuffling is global and costs no memory, and every host makes its own rows.
"""

import dataclasses
import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np

ROUNDS = 6


def mixed(x: np.ndarray) -> np.ndarray:
    """A 64-bit hash (the finaliser of splitmix64), elementwise on uint64."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def permuted(index_n: np.ndarray, size: int, seed: int, epoch_n: np.ndarray) -> np.ndarray:
    """Where `index_n` < size goes under the permutation of 0 .. size - 1 keyed by (seed, epoch)."""
    half = max((int(size - 1).bit_length() + 1) // 2, 1)
    mask, shift = np.uint64((1 << half) - 1), np.uint64(half)
    with np.errstate(over="ignore"):
        key_n = mixed(np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15) + epoch_n.astype(np.uint64) + np.uint64(1))
    x_n = index_n.astype(np.uint64)
    walking = np.ones(x_n.shape, bool)
    while walking.any():
        left, right, key = x_n[walking] >> shift, x_n[walking] & mask, key_n[walking]
        for turn in range(ROUNDS):
            with np.errstate(over="ignore"):
                left, right = right, left ^ (mixed(right + key + np.uint64(turn * 0x1000193)) & mask)
        x_n[walking] = (left << shift) | right
        walking = x_n >= np.uint64(size)
    return x_n.astype(np.int64)


@dataclasses.dataclass(frozen=True)
class Stream:
    """`stream[k]` is the global batch k of `batch_size` rows; without shuffling rows come in the cache's order."""

    rows: Any
    batch_size: int
    seed: int = 0
    shuffle: bool = True

    def __post_init__(self):
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size}: a batch has at least one row")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed={self.seed} is not in 0 .. 2^63 - 1")
        if len(self.rows) == 0:
            raise ValueError(f"{self.rows} has no row: its data is shorter than one row; shorten the lengths")

    @property
    def fingerprint(self) -> str:
        """Hash of the data, the order and the batch size: two streams with the same one give the same batches."""
        text = f"{self.rows.fingerprint} batch={self.batch_size} seed={self.seed} shuffle={self.shuffle}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        return self.slice(step, 0, self.batch_size)

    def slice(self, step: int, start: int, stop: int) -> dict[str, np.ndarray]:
        """Rows start .. stop - 1 of batch `step`: arrays [stop - start, L]."""
        size = len(self.rows)
        row_n = np.arange(start, stop, dtype=np.int64) + step * self.batch_size
        epoch_n, index_n = np.divmod(row_n, size)
        if self.shuffle:
            index_n = permuted(index_n, size, self.seed, epoch_n)
        return self.rows.fetch(index_n, epoch_n, self.seed)

    def once(self) -> Iterator[dict[str, np.ndarray]]:
        """Every row once, in order; the last batch is filled up with rows of weight and segment 0."""
        size = len(self.rows)
        for start in range(0, size, self.batch_size):
            index_n = np.arange(start, start + self.batch_size, dtype=np.int64)
            real_n = index_n < size
            batch = self.rows.fetch(np.minimum(index_n, size - 1), np.zeros_like(index_n), self.seed)
            if not real_n.all():
                for name in batch:
                    if name.endswith(("_segment_ids", "_loss_weights")):
                        batch[name][~real_n] = 0
            yield batch

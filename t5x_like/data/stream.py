"""The stream of batches: batch k is a pure function of k, so that a run resumes from its step alone.

Row r of the run is row `permutation(seed, epoch)[r mod rows]` of epoch r div rows; batch k is rows k B .. (k + 1) B - 1.
The permutation is a keyed bijection (a Feistel network on a rectangle slightly larger than the epoch, with cycle walking:
Black & Rogaway 2002), computed only for the rows of a batch: shuffling is global and costs no memory, and every host
makes its own rows. Rows in groups are permuted as groups.
"""

import dataclasses
import hashlib
import math
from collections.abc import Iterator
from typing import TypeVar

import numpy as np

from t5x_like import batches
from t5x_like.types import Rows

Array = TypeVar("Array", np.ndarray, np.uint64)
ROUNDS = 6
ORDER = 3  # part of the fingerprint; raise it when the same seed gives another order or other noise
GOLDEN, FIRST, SECOND = map(np.uint64, (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
ONE, A, B, C, HALF = map(np.uint64, (1, 30, 27, 31, 32))

# After an array of this size is freed, glibc's malloc keeps the memory of batches; page faults on new memory would take
# longer than filling it.
np.empty(2**25 - 2**16, np.uint8)


def hash64(x: Array) -> Array:
    """A 64-bit hash (the finaliser of splitmix64), elementwise on uint64."""
    x = (x ^ (x >> A)) * FIRST
    x = (x ^ (x >> B)) * SECOND
    return x ^ (x >> C)


def permute(index_n: np.ndarray, size: int, seed: int, epoch_n: np.ndarray) -> np.ndarray:
    """Maps `index_n` < size by the permutation of 0 .. size - 1 keyed by (seed, epoch); int64 [n]."""
    # The rectangle has nearly `size` places, so that few indices need a second pass.
    rows = math.isqrt(size - 1) + 1
    sides = np.uint64(rows), np.uint64(-(-size // rows))
    key_n = hash64(np.full(index_n.shape, seed, np.uint64) * GOLDEN + epoch_n.astype(np.uint64) + ONE)
    x_n = _rounds(index_n.astype(np.uint64), key_n, sides)
    while (outside := np.flatnonzero(x_n >= size)).size:
        x_n[outside] = _rounds(x_n[outside], key_n[outside], sides)
    return x_n.astype(np.int64)


def permute_groups(index_n: np.ndarray, size: int, group: int, seed: int, epoch_n: np.ndarray) -> np.ndarray:
    """`permute` for groups of `group` neighbours, which keep their order inside; `size` is a multiple of `group`."""
    group_n, member_n = np.divmod(index_n, group)
    return permute(group_n, size // group, seed, epoch_n) * group + member_n


def check_whole_groups(rows: Rows) -> None:
    """Raises ValueError unless the number of rows per epoch is a multiple of their group."""
    if rows.group < 1 or len(rows) % rows.group:
        raise ValueError(
            f"{type(rows).__name__} has {len(rows)} rows per epoch in groups of {rows.group}; "
            "len(rows) must be a multiple of group"
        )


def _rounds(x_n: np.ndarray, key_n: np.ndarray, sides: tuple[np.uint64, np.uint64]) -> np.ndarray:
    """One pass of the network on a rectangle; each round moves one coordinate by a hash of the other."""
    here, there = np.divmod(x_n, sides[1])
    for turn in range(ROUNDS):
        hashed = (there + (key_n + np.uint64(turn * 0x1000193))) * FIRST
        hashed ^= hashed >> HALF
        hashed *= SECOND
        here = (here + (hashed >> HALF)) % sides[turn % 2]
        here, there = there, here
    return here * sides[1] + there


@dataclasses.dataclass(frozen=True)
class Stream:
    """`stream[k]` is global batch k of `batch_size` rows; without `shuffle`, rows keep the order of the cache.

    If a run went on with another batch size, the first `batches_before` batches had `rows_before` rows in total.
    """

    rows: Rows
    batch_size: int
    seed: int = 0
    shuffle: bool = True
    batches_before: int = 0
    rows_before: int = 0

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size}: a batch needs at least one row")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed={self.seed} is not in 0 .. 2^63 - 1")
        if len(self.rows) == 0:
            raise ValueError(f"{self.rows} has no rows: its data is shorter than one row; shorten the lengths")
        check_whole_groups(self.rows)
        batches.check_groups(self.rows.group, self.batch_size)

    @property
    def fingerprint(self) -> str:
        """Hash of data, order and batch size: streams with equal fingerprints give equal batches."""
        text = f"{self.rows.fingerprint} order={ORDER} batch={self.batch_size} seed={self.seed} shuffle={self.shuffle}"
        if self.rows.group > 1:
            text += f" group={self.rows.group}"
        if self.batches_before:
            text += f" after {self.batches_before} batches of {self.rows_before} rows"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def first_row(self, step: int) -> int:
        """The number of the first row of batch `step`, counted over all epochs."""
        return self.rows_before + (step - self.batches_before) * self.batch_size

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        return self.slice(step, 0, self.batch_size)

    def slice(self, step: int, start: int, stop: int) -> dict[str, np.ndarray]:
        """Rows start .. stop - 1 of batch `step`: {feature: [stop - start, ...]}."""
        size = len(self.rows)
        row_n = np.arange(start, stop, dtype=np.int64) + self.first_row(step)
        epoch_n, index_n = np.divmod(row_n, size)
        if self.shuffle:
            index_n = permute_groups(index_n, size, self.rows.group, self.seed, epoch_n)
        return self.rows.fetch(index_n, epoch_n, self.seed)

    def once(self) -> Iterator[dict[str, np.ndarray]]:
        """Every row once, in order; the last batch is filled up with copies of the last group that do not count."""
        size, group = len(self.rows), self.rows.group
        for start in range(0, size, self.batch_size):
            index_n = np.arange(start, start + self.batch_size, dtype=np.int64)
            real_n = index_n < size
            filled_n = np.where(real_n, index_n, size - group + index_n % group)
            batch = self.rows.fetch(filled_n, np.zeros_like(index_n), self.seed)
            if not real_n.all():
                for name, feature in batches.features(self.rows).items():
                    if feature.mask:
                        batch[name][~real_n] = feature.pad
            yield batch

"""Packing several short examples into one row."""

import dataclasses

import numpy as np

from t5x_like.data.rows.arrays import numbered

WINDOW = 512  # examples that are packed among themselves
WINDOWS_AT_ONCE = 256  # bounds the memory of packing


@dataclasses.dataclass(frozen=True)
class Packing:
    """Which examples stand in which row: `examples[starts[r] : starts[r + 1]]` are row r's, in order."""

    examples: np.ndarray
    starts: np.ndarray

    def __len__(self) -> int:
        return len(self.starts) - 1

    def pieces(self, row_n: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(example, row by its place in `row_n`, which of its row's examples: 0, 1, ...) of all examples of some rows."""
        starts_n = self.starts[row_n]
        count_n = self.starts[row_n + 1] - starts_n
        row_K = np.repeat(np.arange(len(row_n)), count_n)
        before_n = np.cumsum(count_n) - count_n
        nth_K = np.arange(len(row_K)) - before_n[row_K]
        return self.examples[starts_n[row_K] + nth_K], row_K, nth_K


def first_fit(lengths_NF: np.ndarray, capacity_F: tuple[int, ...], order_N: np.ndarray) -> Packing:
    """Puts every example into the first row of its window that has room for all of its F features.

    `lengths_NF` are at most the capacities; `order_N` is the order in which examples come.
    """
    count, together = len(order_N), WINDOW * WINDOWS_AT_ONCE
    starts = range(0, count, together)
    places = [_places(lengths_NF[order_N[start : start + together]], capacity_F) for start in starts]
    row_N = np.concatenate([np.zeros(0, np.int64), *places]) + np.arange(count) // WINDOW * WINDOW
    by_row = np.argsort(row_N, kind="stable")
    first = np.flatnonzero(np.diff(row_N[by_row], prepend=-1))
    return Packing(order_N[by_row].astype(np.int64), np.append(first, count))


def _places(lengths_NF: np.ndarray, capacity_F: tuple[int, ...]) -> np.ndarray:
    """The row of its window that every example goes to; windows are filled side by side, example by example."""
    count, features = lengths_NF.shape
    windows = -(-count // WINDOW)
    need_WNF = np.zeros((windows * WINDOW, features), np.int32)
    need_WNF[:count] = lengths_NF
    need_WNF = need_WNF.reshape(windows, WINDOW, features)
    room_FWN = np.empty((features, windows, WINDOW), np.int32)
    room_FWN[:] = np.asarray(capacity_F)[:, None, None]
    place_WN = np.empty((windows, WINDOW), np.int64)
    each = np.arange(windows)
    opened = 0  # rows, in the window that has most
    for n in range(WINDOW):
        need_FW = need_WNF[:, n].T
        fits_FWN = room_FWN[:, :, : opened + 1] >= need_FW[:, :, None]
        place_WN[:, n] = fits_FWN.all(axis=0).argmax(axis=1)
        room_FWN[:, each, place_WN[:, n]] -= need_FW
        opened = min(max(opened, place_WN[:, n].max() + 1), WINDOW - 1)
    return place_WN.reshape(-1)[:count]


def gathered(tokens, begin_K, length_K, place_K: tuple[np.ndarray, np.ndarray], shape):
    """(tokens, positions, segments), int32 of `shape`: K pieces of `tokens`, put side by side from a row's left, then 0.

    `place_K` are each piece's row, increasing, and its number in it; segments are these numbers from 1.
    """
    row_K, nth_K = place_K
    rows, length = shape
    real_n = np.bincount(row_K, length_K, rows).astype(np.int64)
    # What is left of a row is a piece as well, the last one; so all pieces together are all places.
    last_n = np.searchsorted(row_K, np.arange(rows), side="right")
    each_K = np.insert(length_K, last_n, length - real_n)
    number_K = np.insert(nth_K + 1, last_n, 0)
    positions, segments = numbered(np.cumsum(each_K) - each_K, number_K, rows * length)
    made = tokens.take(np.repeat(np.insert(begin_K, last_n, 0), each_K) + positions, mode="clip")
    real = segments > 0
    return tuple(x.reshape(shape) for x in (made.astype(np.int32) * real, positions * real, segments))

"""Packing of several short examples into one row."""

import dataclasses

import numpy as np

from t5x_like.data.rows.arrays import Arrays3, expand_pieces

WINDOW = 512  # examples that are packed with each other
WINDOWS_AT_ONCE = 256  # bounds the memory of packing


@dataclasses.dataclass(frozen=True)
class Packing:
    """The examples of every row: row r has `examples[starts[r] : starts[r + 1]]`, in order."""

    examples: np.ndarray
    starts: np.ndarray

    def __len__(self) -> int:
        return len(self.starts) - 1

    def pieces(self, row_n: np.ndarray) -> Arrays3:
        """(example, index of its row in `row_n`, its number 0, 1, ... in that row) of all examples of some rows."""
        starts_n = self.starts[row_n]
        count_n = self.starts[row_n + 1] - starts_n
        row_K = np.repeat(np.arange(len(row_n)), count_n)
        before_n = np.cumsum(count_n) - count_n
        nth_K = np.arange(len(row_K)) - before_n[row_K]
        return self.examples[starts_n[row_K] + nth_K], row_K, nth_K


def pack_first_fit(lengths_NF: np.ndarray, capacity_F: tuple[int, ...], order_N: np.ndarray) -> Packing:
    """Puts every example into the first row of its window with room for all of its F features.

    `lengths_NF` are at most the capacities; `order_N` is the order in which examples are packed.
    """
    count, together = len(order_N), WINDOW * WINDOWS_AT_ONCE
    starts = range(0, count, together)
    rows = [_assign_rows(lengths_NF[order_N[start : start + together]], capacity_F) for start in starts]
    row_N = np.concatenate([np.zeros(0, np.int64), *rows]) + np.arange(count) // WINDOW * WINDOW
    by_row = np.argsort(row_N, kind="stable")
    first = np.flatnonzero(np.diff(row_N[by_row], prepend=-1))
    return Packing(order_N[by_row].astype(np.int64), np.append(first, count))


def _assign_rows(lengths_NF: np.ndarray, capacity_F: tuple[int, ...]) -> np.ndarray:
    """The row of its window that every example goes to; all windows are filled in parallel, example by example."""
    count, features = lengths_NF.shape
    windows = -(-count // WINDOW)
    need_WNF = np.zeros((windows * WINDOW, features), np.int32)
    need_WNF[:count] = lengths_NF
    need_WNF = need_WNF.reshape(windows, WINDOW, features)
    room_FWN = np.empty((features, windows, WINDOW), np.int32)
    room_FWN[:] = np.asarray(capacity_F)[:, None, None]
    row_WN = np.empty((windows, WINDOW), np.int64)
    each = np.arange(windows)
    opened = 0  # the largest number of rows in use in a window
    for n in range(WINDOW):
        need_FW = need_WNF[:, n].T
        fits_FWN = room_FWN[:, :, : opened + 1] >= need_FW[:, :, None]
        row_WN[:, n] = fits_FWN.all(axis=0).argmax(axis=1)
        room_FWN[:, each, row_WN[:, n]] -= need_FW
        opened = min(max(opened, row_WN[:, n].max() + 1), WINDOW - 1)
    return row_WN.reshape(-1)[:count]


def gather_pieces(
    tokens: np.ndarray,
    begin_K: np.ndarray,
    length_K: np.ndarray,
    place_K: tuple[np.ndarray, np.ndarray],
    shape: tuple[int, int],
) -> Arrays3:
    """(tokens, positions, segments), int32 of `shape`: K pieces of `tokens`, side by side from the left of a row, then 0.

    `place_K` are each piece's row, increasing, and its number in the row; segment ids are these numbers from 1.
    """
    row_K, nth_K = place_K
    rows, length = shape
    real_n = np.bincount(row_K, length_K, rows).astype(np.int64)
    # The padding of a row counts as its last piece, so that all pieces together cover all places.
    last_n = np.searchsorted(row_K, np.arange(rows), side="right")
    each_K = np.insert(length_K, last_n, length - real_n)
    number_K = np.insert(nth_K + 1, last_n, 0)
    positions, segments = expand_pieces(np.cumsum(each_K) - each_K, number_K, rows * length)
    gathered = tokens.take(np.repeat(np.insert(begin_K, last_n, 0), each_K) + positions, mode="clip")
    real = segments > 0
    arrays = gathered.astype(np.int32) * real, positions * real, segments
    return arrays[0].reshape(shape), arrays[1].reshape(shape), arrays[2].reshape(shape)

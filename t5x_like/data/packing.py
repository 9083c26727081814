"""Packing several short examples into one row."""

import dataclasses

import numpy as np

WINDOW = 512  # examples that are packed among themselves
WINDOWS_AT_ONCE = 256  # bounds the memory of packing


@dataclasses.dataclass(frozen=True)
class Packing:
    """Which examples stand in which row: `examples[starts[r] : starts[r + 1]]` are row r's, in order."""

    examples: np.ndarray
    starts: np.ndarray

    def __len__(self) -> int:
        return len(self.starts) - 1


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
    for n in range(WINDOW):
        need_FW = need_WNF[:, n].T
        fits_FWN = room_FWN[:, :, : n + 1] >= need_FW[:, :, None]  # n examples have opened n rows at most
        place_WN[:, n] = fits_FWN.all(axis=0).argmax(axis=1)
        room_FWN[:, each, place_WN[:, n]] -= need_FW
    return place_WN.reshape(-1)[:count]


def gathered(tokens, starts_K, lengths_K, row_K, column_K, shape) -> np.ndarray:
    """An int32 array of `shape`, zero but for K pieces: tokens[start : start + length] at (row, column)."""
    result = np.zeros(shape, np.int32)
    within = np.arange(lengths_K.sum()) - np.repeat(np.cumsum(lengths_K) - lengths_K, lengths_K)
    place = np.repeat(row_K * shape[1] + column_K, lengths_K) + within
    result.reshape(-1)[place] = tokens[np.repeat(starts_K, lengths_K) + within]
    return result

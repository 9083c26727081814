"""Packing several short examples into one row."""

import dataclasses

import numpy as np

WINDOW = 512  # examples that are packed among themselves


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
    rows: list[list[int]] = []
    for start in range(0, len(order_N), WINDOW):
        room: list[list[int]] = []
        window: list[list[int]] = []
        for example in order_N[start : start + WINDOW].tolist():
            need = lengths_NF[example].tolist()
            fits = (i for i, free in enumerate(room) if all(f >= n for f, n in zip(free, need, strict=True)))
            place = next(fits, len(room))
            if place == len(room):
                room.append(list(capacity_F))
                window.append([])
            window[place].append(example)
            room[place] = [f - n for f, n in zip(room[place], need, strict=True)]
        rows.extend(window)
    sizes = [len(row) for row in rows]
    flat = [example for row in rows for example in row]
    return Packing(np.asarray(flat, np.int64), np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64))


def gathered(tokens, starts_K, lengths_K, row_K, column_K, shape) -> np.ndarray:
    """An int32 array of `shape`, zero but for K pieces: tokens[start : start + length] at (row, column)."""
    result = np.zeros(shape, np.int32)
    within = np.arange(lengths_K.sum()) - np.repeat(np.cumsum(lengths_K) - lengths_K, lengths_K)
    place = np.repeat(row_K * shape[1] + column_K, lengths_K) + within
    result.reshape(-1)[place] = tokens[np.repeat(starts_K, lengths_K) + within]
    return result

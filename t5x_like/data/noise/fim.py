"""Fill in the middle (Bavarian et al. 2022, arXiv:2207.14255): the middle of a text is moved after its prefix and suffix."""

import numpy as np

# The parts of a row, by their order in the new row; a part's index in PSM or SPM is its rank, and GONE is removed.
FIRST, PRE, PREFIX, SUF, SUFFIX, MID, MIDDLE, END, REST, GONE = range(10)
PSM = (FIRST, PRE, PREFIX, SUF, SUFFIX, MID, MIDDLE, END, REST, GONE)
SPM = (FIRST, PRE, SUF, SUFFIX, MID, PREFIX, MIDDLE, END, REST, GONE)


def rank_parts(order: tuple[int, ...]) -> np.ndarray:
    """The rank of every part in `order`, int8."""
    result = np.empty(len(order), np.int8)
    result[list(order)] = np.arange(len(order))
    return result


def find_longest_segment(positions_nT: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(begin, end) of the longest segment of every row, the first of several; positions count from 0 in each."""
    last_n = np.argmax(positions_nT, axis=1)
    return last_n - positions_nT[np.arange(len(last_n)), last_n], last_n + 1


def move_middle(
    tokens_nT: np.ndarray,
    segments_nT: np.ndarray,
    begin_n: np.ndarray,
    end_n: np.ndarray,
    uniform_n4: np.ndarray,
    rate: float,
    spm_rate: float,
    special: tuple[int, int, int],
    eos: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(tokens, segments, kept, moved), [n, T + 4] and [n]: moves the middle of `rate` of the texts begin .. end - 1.

    PSM is PRE prefix SUF suffix MID middle eos, SPM is PRE SUF suffix MID prefix middle eos (the paper's joint variant);
    `special` are PRE, SUF and MID. Both cuts are uniform, and parts may be empty. An eos that ends a text stays its end; a
    text without one gets one. Places that are not kept are at the end of their row.
    """
    rows, width = tokens_nT.shape
    moved_n, spm_n = uniform_n4[:, 0] < rate, uniform_n4[:, 1] < spm_rate
    last_n = np.take_along_axis(tokens_nT, end_n[:, None] - 1, axis=1)[:, 0]
    body_n = end_n - (last_n == eos)
    cuts_n2 = np.sort(uniform_n4[:, 2:] * (body_n - begin_n + 1)[:, None], axis=1).astype(np.int64) + begin_n[:, None]
    column = np.arange(width)
    begins = (begin_n, PREFIX), (cuts_n2[:, 0], MIDDLE), (cuts_n2[:, 1], SUFFIX), (body_n, GONE), (end_n, REST)
    part = np.full((rows, width), FIRST)
    for edge_n, name in begins:
        part[column >= edge_n[:, None]] = name
    part = np.where(moved_n[:, None], part, FIRST)
    added = np.where(moved_n[:, None], np.array([PRE, SUF, MID, END]), GONE)
    part = np.concatenate([part, added], axis=1)
    rank = np.where(spm_n[:, None], rank_parts(SPM)[part], rank_parts(PSM)[part])
    source = np.argsort(rank, axis=1, kind="stable")
    own_n1 = np.take_along_axis(segments_nT, begin_n[:, None], axis=1)
    marks = np.broadcast_to(np.array([*special, eos], tokens_nT.dtype), (rows, 4))
    tokens = np.take_along_axis(np.concatenate([tokens_nT, marks], axis=1), source, axis=1)
    segments = np.concatenate([segments_nT, np.broadcast_to(own_n1, (rows, 4))], axis=1)
    kept = np.take_along_axis(part, source, axis=1) != GONE
    return tokens, np.take_along_axis(segments, source, axis=1), kept, moved_n

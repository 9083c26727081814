"""Fill in the middle (Bavarian et al. 2022, arXiv:2207.14255): a text's middle is moved behind what stands around it."""

import numpy as np

# What stands where, in the order of the new row; a token's place in a list is its rank, GONE is left out.
FIRST, PRE, PREFIX, SUF, SUFFIX, MID, MIDDLE, END, REST, GONE = range(10)
PSM = (FIRST, PRE, PREFIX, SUF, SUFFIX, MID, MIDDLE, END, REST, GONE)
SPM = (FIRST, PRE, SUF, SUFFIX, MID, PREFIX, MIDDLE, END, REST, GONE)


def ranks_of(order: tuple[int, ...]) -> np.ndarray:
    """Rank by part."""
    result = np.empty(len(order), np.int8)
    result[list(order)] = np.arange(len(order))
    return result


def longest(positions_nT: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(begin, end) of the longest segment of every row, the first of several; positions count from 0 in each."""
    last_n = np.argmax(positions_nT, axis=1)
    return last_n - positions_nT[np.arange(len(last_n)), last_n], last_n + 1


def rearranged(tokens_nT, segments_nT, begin_n, end_n, uniform_n4, rate: float, spm_rate: float, special, eos: int):
    """(tokens, segments, kept, rearranged), [n, T + 4] and [n]: `rate` of the texts begin .. end - 1 with the middle moved.

    PSM is PRE prefix SUF suffix MID middle eos, SPM is PRE SUF suffix MID prefix middle eos (the paper's joint variant);
    `special` are PRE, SUF and MID. Both cuts are uniform, parts may be empty. An eos that ends a text stays its end, a
    text without gets one. What is not kept stands at the end of its row.
    """
    rows, width = tokens_nT.shape
    done_n, spm_n = uniform_n4[:, 0] < rate, uniform_n4[:, 1] < spm_rate
    last_n = np.take_along_axis(tokens_nT, end_n[:, None] - 1, axis=1)[:, 0]
    body_n = end_n - (last_n == eos)
    cuts_n2 = np.sort(uniform_n4[:, 2:] * (body_n - begin_n + 1)[:, None], axis=1).astype(np.int64) + begin_n[:, None]
    column = np.arange(width)
    begins = (begin_n, PREFIX), (cuts_n2[:, 0], MIDDLE), (cuts_n2[:, 1], SUFFIX), (body_n, GONE), (end_n, REST)
    part = np.full((rows, width), FIRST)
    for edge_n, name in begins:
        part[column >= edge_n[:, None]] = name
    part = np.where(done_n[:, None], part, FIRST)
    added = np.where(done_n[:, None], np.array([PRE, SUF, MID, END]), GONE)
    part = np.concatenate([part, added], axis=1)
    rank = np.where(spm_n[:, None], ranks_of(SPM)[part], ranks_of(PSM)[part])
    source = np.argsort(rank, axis=1, kind="stable")
    own_n1 = np.take_along_axis(segments_nT, begin_n[:, None], axis=1)
    marks = np.broadcast_to(np.array([*special, eos], tokens_nT.dtype), (rows, 4))
    tokens = np.take_along_axis(np.concatenate([tokens_nT, marks], axis=1), source, axis=1)
    segments = np.concatenate([segments_nT, np.broadcast_to(own_n1, (rows, 4))], axis=1)
    kept = np.take_along_axis(part, source, axis=1) != GONE
    return tokens, np.take_along_axis(segments, source, axis=1), kept, done_n

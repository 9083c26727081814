"""First-fit packing of many windows at once against a loop."""

import itertools

import numpy as np
import pytest

from t5x_like.data.rows import packing


def slow_first_fit(lengths_NF, capacity_F, order_N):
    """Rows of examples: each is put into the first row of its window with room for it."""
    rows = []
    for start in range(0, len(order_N), packing.WINDOW):
        window = []
        for example in order_N[start : start + packing.WINDOW]:
            fits = [row for row in window if all(lengths_NF[[*row, example]].sum(axis=0) <= capacity_F)]
            if fits:
                fits[0].append(example)
            else:
                window.append([example])
        rows.extend(window)
    return rows


@pytest.mark.parametrize("count", [0, 1, 7, 512, 513, 1100])
@pytest.mark.parametrize("capacity_F", [(256,), (256, 128)])
def test_packing_windows_in_parallel_equals_a_loop(count, capacity_F, monkeypatch):
    monkeypatch.setattr(packing, "WINDOWS_AT_ONCE", 2)  # several chunks, the last one short
    random = np.random.default_rng(count)
    lengths_NF = random.integers(0, 129, (count, len(capacity_F)))
    order_N = random.permutation(count)
    packed = packing.pack_first_fit(lengths_NF, capacity_F, order_N)
    rows = [packed.examples[a:b].tolist() for a, b in itertools.pairwise(packed.starts)]
    assert len(packed) == len(rows) and rows == slow_first_fit(lengths_NF, capacity_F, order_N)


def test_gathered_pieces_are_adjacent_and_the_rest_is_padding():
    random = np.random.default_rng(0)
    tokens, shape = random.integers(1, 99, 200).astype(np.uint16), (30, 24)
    count = random.integers(1, 6, shape[0])
    row, nth = np.repeat(np.arange(shape[0]), count), np.concatenate([np.arange(n) for n in count])
    length = random.integers(0, 5, len(row))  # some are empty
    begin = random.integers(0, 190, len(row))
    arrays = packing.gather_pieces(tokens, begin, length, (row, nth), shape)
    expected = np.zeros((3, *shape), int)
    column = dict.fromkeys(range(shape[0]), 0)
    for piece in range(len(row)):
        for place in range(length[piece]):
            expected[:, row[piece], column[row[piece]]] = tokens[begin[piece] + place], place, nth[piece] + 1
            column[row[piece]] += 1
    np.testing.assert_array_equal(arrays, expected)
    assert {x.dtype for x in arrays} == {np.dtype(np.int32)}

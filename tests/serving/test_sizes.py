"""Sizes of programs: prompts are read in few of them, and little is computed for nothing."""

import pytest

from t5x_like.serving import sizes


@pytest.mark.parametrize("most", [1, 3, 4, 6, 16, 64])
def test_at_most_a_quarter_of_the_rows_is_empty(most):
    known = sizes.list_sizes(1, most)
    assert known[0] == 1 and known[-1] == most
    for count in range(1, most + 1):
        left, rows, calls = count, 0, 0
        while left:
            size = sizes.filled(left, most)
            assert size in known and size - min(left, size) <= size / 4
            left, rows, calls = left - min(left, size), rows + size, calls + 1
        assert rows <= 4 / 3 * count and calls <= len(known) * 3

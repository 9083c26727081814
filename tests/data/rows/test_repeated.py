"""Rows of repeated random texts: all different, and reproducible."""

import dataclasses

import numpy as np
import pytest

from t5x_like.data.rows.repeated import RepeatedTokens

ROWS = RepeatedTokens(length=40, shortest=8, longest=13, symbols=20, rows=64)


def fetch(rows=ROWS, count=64, epoch=0, seed=0):
    index_n = np.arange(count)
    return rows.fetch(index_n, np.full_like(index_n, epoch), seed), rows.periods(index_n, np.full(count, epoch), seed)


def test_rows_repeat_a_random_text_with_their_period():
    batch, period_B = fetch()
    assert set(period_B) == set(range(8, 14))
    for row_L, inputs_L, period in zip(
        batch["decoder_target_tokens"], batch["decoder_input_tokens"], period_B, strict=True
    ):
        assert np.array_equal(row_L[period:], row_L[:-period]) and np.array_equal(inputs_L[1:], row_L[:-1])
    first_BK = batch["decoder_target_tokens"][:, :8]
    assert set(np.unique(first_BK)) == set(range(3, 23))


def test_rows_epochs_seeds_and_parts_differ_and_are_reproducible():
    others = [fetch(), fetch(epoch=1), fetch(seed=1), fetch(dataclasses.replace(ROWS, part=1))]
    rows = np.concatenate([batch["decoder_target_tokens"] for batch, _ in others])
    assert len(np.unique(rows, axis=0)) == len(rows)
    np.testing.assert_array_equal(rows[:64], fetch()[0]["decoder_target_tokens"])
    alone = ROWS.fetch(np.array([5]), np.array([0]), 0)["decoder_target_tokens"][0]
    np.testing.assert_array_equal(alone, rows[5])


def test_a_text_as_long_as_the_row_is_refused():
    with pytest.raises(ValueError, match="longest=40, length=40"):
        RepeatedTokens(40, 2, 40)

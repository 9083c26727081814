"""Windows score every id once, as lm-evaluation-harness's do; rows keep to the lengths of the model."""

import numpy as np
import pytest

from t5x_like.models import positions
from t5x_like.scoring import rows, scorer
from tests import tiny


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 9, 10, 23])
@pytest.mark.parametrize("length, overlap", [(4, 1), (4, 2), (4, 4), (1, 1), (30, 1), (30, 7)])
def test_windows_are_those_of_the_harness(count, length, overlap):
    utils = pytest.importorskip("lm_eval.utils")
    ids = list(range(100, 100 + count))
    theirs = map(utils.make_disjoint_window, utils.get_rolling_token_windows(ids, 7, length, overlap))
    assert list(rows.rolling_windows(ids, [7], length, overlap)) == list(theirs)


@pytest.mark.parametrize("length, overlap", [(5, 1), (5, 3), (5, 5)])
def test_every_id_of_a_document_is_a_target_once_after_the_ids_before_it(length, overlap):
    ids = list(range(17))
    begin = 0
    for number, (context, targets) in enumerate(rows.rolling_windows(ids, [-1], length, overlap)):
        assert targets == ids[begin : begin + len(targets)]
        before = ids[:begin][-len(context) :] if number else [-1]
        assert context == before and len(context) >= (overlap if number else 1)
        assert len(context) + len(targets) <= length + 1
        begin += len(targets)
    assert begin == len(ids)


def test_a_causal_row_predicts_targets_from_all_ids_before_them():
    row = rows.causal_row([1, 2, 3], [4, 5], limit=4, prefix=3)
    assert row == rows.Row({"decoder": [1, 2, 3, 4]}, range(2, 4), [4, 5], prefix=3)
    assert rows.causal_row([1, 2, 3], [4, 5], limit=2, prefix=3) == rows.Row(
        {"decoder": [3, 4]}, range(2), [4, 5], 1, 2
    )
    assert rows.causal_row([1, 2], [], limit=9).inputs == {"decoder": [1, 2]}


def test_an_encoder_reads_the_end_of_its_context():
    limits = {"encoder": 2, "decoder": 2}
    expected = rows.Row({"encoder": [2, 3], "decoder": [0, 4]}, range(2), [4, 5], dropped=1)
    assert rows.seq2seq_row([1, 2, 3], [4, 5], 0, limits) == expected


def test_masked_rows_hide_one_target_each():
    around = [101], [102]
    full = rows.masked_rows([1, 2], [3, 4], around, 9, limit=6)
    assert full == [
        rows.Row({"encoder": [101, 1, 2, 9, 4, 102]}, [3], [3]),
        rows.Row({"encoder": [101, 1, 2, 3, 9, 102]}, [4], [4]),
    ]
    cut = rows.masked_rows([1, 2], [3, 4], around, 9, limit=5)
    assert [row.inputs["encoder"] for row in cut] == [[101, 2, 9, 4, 102], [101, 2, 3, 9, 102]]
    assert [row.dropped for row in cut] == [1, 0]


def test_the_rest_of_a_word_is_masked_with_each_of_its_tokens():
    starts_V = np.array([True, True, True, True, False, False, True, True])
    read = [row.inputs["encoder"] for row in rows.masked_rows([1], [2, 4, 5, 6, 4], ([7], [7]), 0, 9, starts_V)]
    assert read == [
        [7, 1, 0, 0, 0, 6, 4, 7],
        [7, 1, 2, 0, 0, 6, 4, 7],
        [7, 1, 2, 4, 0, 6, 4, 7],
        [7, 1, 2, 4, 5, 0, 0, 7],
        [7, 1, 2, 4, 5, 6, 0, 7],
    ]


def test_the_length_is_given_or_that_of_the_position_table_or_of_training():
    table, rope = tiny.decoder(position=positions.Learned(70)), tiny.decoder()
    assert rows.length_limits(table) == {"decoder": 70}
    assert rows.length_limits(table, 12, {"decoder": 30}) == {"decoder": 12}
    assert rows.length_limits(rope, None, {"decoder": 30}) == {"decoder": 30}
    assert rows.length_limits(tiny.encoder_decoder()) == {"encoder": 2048, "decoder": 2048}


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: rows.length_limits(tiny.decoder(position=positions.Learned(70)), 71), "max_length=71 .*at most 70"),
        (lambda: rows.length_limits(tiny.decoder(), 0), "max_length=0 must be 1 or more"),
        (lambda: rows.causal_row([], [1], 4), "context=.. leaves nothing"),
        (lambda: rows.causal_row([1], [1, 2, 3], 2), "3 tokens to score do not fit into the 2"),
        (
            lambda: rows.seq2seq_row([1], [1, 2, 3], 0, {"encoder": 9, "decoder": 2}),
            "3 tokens to score do not fit into the 2",
        ),
        (lambda: rows.masked_rows([], [1, 2, 3], ([5], [6]), 9, 4), "3 tokens to score do not fit into the 2"),
        (lambda: list(rows.rolling_windows([1], [0], 4, 5)), "overlap=5 must be 1 or more and at most .* 4"),
        (lambda: list(rows.rolling_windows([1], [0], 4, 0)), "overlap=0"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_padding_is_less_than_half_and_lengths_are_few():
    lengths = np.arange(17, 5000)
    rounded = np.array([scorer.round_length(length) for length in lengths.tolist()])
    assert (rounded >= lengths).all() and (rounded < 2 * lengths).all() and len(set(rounded)) <= 16
    assert not (rounded % 16).any()

"""Laws of all kinds of noised rows: a row depends on (seed, epoch, row) alone, and every epoch has other noise."""

import numpy as np
import pytest

from t5x_like import batches
from tests.data.rows import kinds


@pytest.fixture(params=kinds.NOISED)
def rows(request, tiny_root):
    return kinds.make(request.param, tiny_root)


def everything(rows, epoch=0, seed=0):
    return rows.fetch(np.arange(len(rows)), np.full(len(rows), epoch), seed)


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_a_row_depends_on_seed_epoch_and_row_alone(rows):
    whole = everything(rows, 3, 5)
    index = np.array([7, 2, 2, len(rows) - 1])
    few = rows.fetch(index, np.array([3, 3, 3, 3]), 5)
    assert_equal(few, {name: x[index] for name, x in whole.items()})
    mixed = rows.fetch(np.array([2, 2]), np.array([3, 4]), 5)
    assert_equal({n: x[:1] for n, x in mixed.items()}, {n: x[2:3] for n, x in whole.items()})


def test_every_epoch_and_seed_has_other_noise(rows):
    first, later, other = everything(rows, 0), everything(rows, 1), everything(rows, 0, seed=1)
    for one in (later, other):
        changed = np.zeros(len(rows), bool)
        for name in first:
            changed |= (first[name] != one[name]).any(axis=1)
        assert changed.mean() > 0.9


def test_batches_have_the_names_lengths_and_types_that_models_expect(rows):
    batch = everything(rows)
    batches.abstract(rows, 8)
    for name, x in batch.items():
        assert x.dtype == (np.float32 if name.endswith("_loss_weights") else np.int32), name
        assert x.ndim == 2 and x.min() >= 0, name
    for side, length in rows.lengths.items():
        segments = batch[f"{side}_segment_ids"]
        assert batch[f"{side}_input_tokens"].shape == segments.shape == (len(rows), length)
        assert (batch[f"{side}_input_tokens"] < rows.vocabulary.vocab_size).all()
        if f"{side}_loss_weights" in batch:
            assert (segments[batch[f"{side}_loss_weights"] > 0] > 0).all()
        # Positions count from 0 in every segment, segments are contiguous, padding is at the end.
        before = np.pad(segments, ((0, 0), (1, 0)))[:, :-1]
        positions, real = batch[f"{side}_positions"], segments > 0
        assert ((segments == before) | (segments == before + 1) | ~real).all()
        assert (positions[real & (segments != before)] == 0).all()
        inside = real & (segments == before)
        assert (positions[inside] == np.roll(positions, 1, axis=1)[inside] + 1).all()

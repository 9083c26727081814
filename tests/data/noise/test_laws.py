"""What every kind of noised rows keeps: a row depends on (seed, epoch, row) alone, and every epoch is noised anew."""

import numpy as np
import pytest

from t5x_like import batches
from tests.data.rows import kinds


@pytest.fixture(params=kinds.NOISED)
def made(request, tiny_root):
    return kinds.make(request.param, tiny_root)


def everything(made, epoch=0, seed=0):
    return made.fetch(np.arange(len(made)), np.full(len(made), epoch), seed)


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_a_row_depends_on_seed_epoch_and_row_alone(made):
    whole = everything(made, 3, 5)
    index = np.array([7, 2, 2, len(made) - 1])
    few = made.fetch(index, np.array([3, 3, 3, 3]), 5)
    assert_equal(few, {name: x[index] for name, x in whole.items()})
    mixed = made.fetch(np.array([2, 2]), np.array([3, 4]), 5)
    assert_equal({n: x[:1] for n, x in mixed.items()}, {n: x[2:3] for n, x in whole.items()})


def test_every_epoch_and_seed_is_noised_anew(made):
    first, later, other = everything(made, 0), everything(made, 1), everything(made, 0, seed=1)
    for one in (later, other):
        changed = np.zeros(len(made), bool)
        for name in first:
            changed |= (first[name] != one[name]).any(axis=1)
        assert changed.mean() > 0.9


def test_batches_have_the_names_lengths_and_types_that_models_expect(made):
    batch = everything(made)
    batches.abstract(made, 8)
    for name, x in batch.items():
        assert x.dtype == (np.float32 if name.endswith("_loss_weights") else np.int32), name
        assert x.ndim == 2 and x.min() >= 0, name
    for side, length in made.lengths.items():
        segments = batch[f"{side}_segment_ids"]
        assert batch[f"{side}_input_tokens"].shape == segments.shape == (len(made), length)
        assert (batch[f"{side}_input_tokens"] < made.vocabulary.vocab_size).all()
        if f"{side}_loss_weights" in batch:
            assert (segments[batch[f"{side}_loss_weights"] > 0] > 0).all()
        # Positions count from 0 in every segment, segments are contiguous, padding stands at the end.
        before = np.pad(segments, ((0, 0), (1, 0)))[:, :-1]
        positions, real = batch[f"{side}_positions"], segments > 0
        assert ((segments == before) | (segments == before + 1) | ~real).all()
        assert (positions[real & (segments != before)] == 0).all()
        inside = real & (segments == before)
        assert (positions[inside] == np.roll(positions, 1, axis=1)[inside] + 1).all()

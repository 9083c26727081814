"""XLNet's orders are equally likely; the last part of each segment's order is predicted, its first token never."""

import collections

import numpy as np
import pytest

from t5x_like.data.cache.token_cache import TokenCache
from t5x_like.data.noise import base as noise
from t5x_like.data.rows import permutation


@pytest.fixture(scope="module")
def cache(tiny_root):
    return TokenCache("tiny", "train", root=str(tiny_root))


@pytest.mark.parametrize("partial", [1, 2, 6])
def test_orders_of_segments_and_their_predicted_tokens(cache, partial):
    rows = permutation.PermutationLM(cache, 64, partial)
    batch = rows.fetch(np.arange(len(rows)), np.zeros(len(rows), int), 0)
    order, weights, segments = batch["encoder_order"], batch["encoder_loss_weights"], batch["encoder_segment_ids"]
    several = 0
    for row in range(len(rows)):
        for segment in range(1, segments[row].max() + 1):
            here = segments[row] == segment
            size = here.sum()
            several += segment > 1
            assert sorted(order[row][here]) == list(range(size))
            predicted = sorted(order[row][here & (weights[row] > 0)])
            count = -(-size // partial)
            assert predicted == [rank for rank in range(size - count, size) if rank > 0]
    assert several
    np.testing.assert_array_equal(batch["encoder_input_tokens"], batch["encoder_target_tokens"])
    flat = np.asarray(cache.tokens("targets"))
    np.testing.assert_array_equal(batch["encoder_input_tokens"].reshape(-1), flat[: len(rows) * 64])


def test_all_orders_are_equally_likely():
    n = 24_000
    draw = noise.random_bits(0, np.zeros(n, int), np.arange(n), 6, purpose=30)
    positions, segments = np.tile([0, 1, 2, 3, 0, 1], (n, 1)), np.tile([1, 1, 1, 1, 2, 2], (n, 1))
    rank, size = permutation.rank_tokens(draw, positions, segments)
    assert (size == [4, 4, 4, 4, 2, 2]).all()
    orders = collections.Counter(map(tuple, rank[:, :4].tolist()))
    assert len(orders) == 24 and all(abs(count - 1000) < 4.5 * np.sqrt(1000) for count in orders.values())
    assert abs(rank[:, 4].mean() - 0.5) < 4 * 0.5 / np.sqrt(n)


def test_bad_choices_are_refused(cache):
    with pytest.raises(ValueError, match="partial=0 is less than 1"):
        permutation.PermutationLM(cache, 16, 0)

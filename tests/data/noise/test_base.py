"""The random numbers behind all noise are uniform, independent and functions of their key; choices are equally likely."""

import collections
import itertools
import math

import numpy as np

from t5x_like.data.noise import base as noise

ROWS, WIDTH = 2000, 64


def bits(seed=0, epoch=0, purpose=0, width=WIDTH, rows=ROWS):
    return noise.random_bits(seed, np.full(rows, epoch), np.arange(rows), width, purpose)


def test_every_bit_is_fair_and_neighbours_are_independent():
    numbers = bits()
    n = numbers.size
    shares = np.array([(numbers >> np.uint32(bit) & 1).mean() for bit in range(32)])
    assert (abs(shares - 0.5) < 4.5 * 0.5 / math.sqrt(n)).all()
    for one, other in ((numbers[:, 1:], numbers[:, :-1]), (numbers[1:], numbers[:-1])):
        for shift in (0, 24):  # of the lowest bits, and of the highest
            pairs = (one >> np.uint32(shift) & 15) * 16 + (other >> np.uint32(shift) & 15)
            count = np.bincount(pairs.reshape(-1), minlength=256)
            expected = pairs.size / 256
            assert abs(((count - expected) ** 2 / expected).sum() - 255) < 5 * math.sqrt(2 * 255)


def test_all_numbers_depend_on_every_part_of_the_key_and_not_on_the_width():
    numbers = bits()
    for other in (bits(seed=1), bits(epoch=1), bits(purpose=1), np.roll(numbers, 1, axis=0)):
        assert (numbers == other).mean() < 1e-4
    np.testing.assert_array_equal(bits(width=10), numbers[:, :10])


def test_integers_below_a_limit_are_equally_likely():
    counts = np.bincount(noise.integers_below(bits(), 7).reshape(-1), minlength=7)
    n = counts.sum()
    assert len(counts) == 7 and (abs(counts / n - 1 / 7) < 4.5 * math.sqrt(6 / 49 / n)).all()
    limits = np.arange(1, WIDTH + 1)
    assert (noise.integers_below(bits(), limits) < limits).all()


def test_every_choice_of_places_is_equally_likely():
    n = 30_000
    for count in range(6):
        places = noise.choose_places(bits(width=6, rows=n), count)
        counts = collections.Counter(map(tuple, places.tolist()))
        choices = set(itertools.combinations(range(6), count))
        assert set(counts) == choices
        p = 1 / len(choices)
        assert all(abs(times - n * p) <= 4.5 * math.sqrt(n * p * (1 - p)) for times in counts.values())


def test_spans_hide_exactly_their_share_and_splits_are_uniform():
    length, density, mean_span = 568, 0.15, 3.0
    kept, hidden = noise.draw_spans(bits(width=length), density, mean_span)
    count, spans = noise.span_counts(length, density, mean_span)
    assert hidden.shape == kept.shape == (ROWS, spans) and min(kept.min(), hidden.min()) >= 1
    assert (hidden.sum(axis=1) == count).all() and (kept.sum(axis=1) == length - count).all()
    # Of the C(count - 1, spans - 1) splits C(count - 1 - k, spans - 2) begin with a span of k, and so does every other.
    for k in range(1, 6):
        p = math.comb(count - 1 - k, spans - 2) / math.comb(count - 1, spans - 1)
        error = 4.5 * math.sqrt(p * (1 - p) / ROWS)
        for place in (0, spans // 2, spans - 1):
            assert abs((hidden[:, place] == k).mean() - p) < error, (k, place)

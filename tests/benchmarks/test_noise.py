"""Intervals cover the median with 95%; a ratio is marked only outside its band, and only if the interval excludes 1."""

import itertools

import pytest

from benchmarks import noise


@pytest.mark.parametrize("count", [5, 6, 9, 12])
def test_the_interval_is_the_narrowest_that_covers_the_median(count):
    # Every value is above or below the median with equal chance: counts all the ways.
    def misses(cut):
        ways = itertools.product([False, True], repeat=count)
        return sum(sum(way) <= cut or count - sum(way) <= cut for way in ways) / 2**count

    low, high = noise.interval(range(count))
    assert (low, high) == (low, count - 1 - low)
    assert misses(low) <= 0.05 or low == 0
    assert misses(low + 1) > 0.05


def test_bands_grow_with_the_noise_and_are_symmetric():
    assert noise.band([], 0.03) == pytest.approx(1.03)
    assert noise.band([1.001, 0.999], 0.03) == pytest.approx(1.03)
    assert noise.band([1.1, 1.0], 0.03) == pytest.approx(1.1**1.5)
    assert noise.band([1 / 1.1], 0.03) == pytest.approx(1.1**1.5)


@pytest.mark.parametrize(
    ("ratios", "verdict"),
    [
        ([1.1, 1.2, 1.1, 1.15, 1.1, 1.2], "slower"),
        ([0.9, 0.8, 0.9, 0.85, 0.9, 0.8], "faster"),
        ([1.01, 1.02, 1.01, 1.02, 1.03, 1.02], ""),  # inside the band
        ([1.1, 1.2, 0.9, 1.15, 1.1, 1.2], ""),  # the interval holds 1
        ([1.1, 1.2, 1.1, 1.15, 1.1], ""),  # too few
    ],
)
def test_verdicts(ratios, verdict):
    assert noise.judge(ratios, 1.05)[""] == verdict


def test_sum_pairs():
    assert noise.sum_pairs([1, 2, 3, 4]) == [3, 7]
    with pytest.raises(ValueError):
        noise.sum_pairs([1, 2, 3])

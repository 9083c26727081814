"""Power analysis: simulated tests have the power of the formulas, and the inverses invert them."""

import numpy as np
import pytest

from t5x_like.scaling.studies import power_analysis

SAMPLES = 20_000
Z = 1.959964


def near(share: float):
    """Compares with the power 0.8, within three standard errors of the simulation."""
    return share == pytest.approx(0.8, abs=3 * np.sqrt(0.16 / SAMPLES) + 0.005)


@pytest.mark.parametrize("p, q", [(0.5, 0.55), (0.9, 0.86), (0.25, 0.4)])
def test_two_samples_have_the_requested_power(p, q):
    n = power_analysis.items_unpaired(p, q)
    p_S, q_S = (np.random.default_rng(0).binomial(n, [[p], [q]], (2, SAMPLES))) / n
    mean_S = (p_S + q_S) / 2
    detected = np.abs(p_S - q_S) > Z * np.sqrt(2 * mean_S * (1 - mean_S) / n)
    assert near(detected.mean())


@pytest.mark.parametrize("p, q, d", [(0.5, 0.55, 0.2), (0.9, 0.86, 0.1), (0.3, 0.36, None)])
def test_pairs_have_the_requested_power(p, q, d):
    n = power_analysis.items_paired(p, q, d)
    d = p * (1 - q) + q * (1 - p) if d is None else d
    shares = [(d + p - q) / 2, (d - p + q) / 2, 1 - d]
    ours_S, theirs_S, _ = np.random.default_rng(0).multinomial(n, shares, SAMPLES).T
    detected = np.abs(ours_S - theirs_S) > Z * np.sqrt(ours_S + theirs_S)  # McNemar
    assert near(detected.mean())


def test_losses_have_the_requested_power():
    n = power_analysis.items_loss(0.05, 0.8)
    mean_S = np.random.default_rng(0).normal(0.05, 0.8 / np.sqrt(n), SAMPLES)
    assert near((np.abs(mean_S) > Z * 0.8 / np.sqrt(n)).mean())
    assert power_analysis.detectable_loss_difference(n, 0.8) == pytest.approx(0.05, rel=1e-3)


def test_known_numbers():
    # Fleiss, Levin & Paik: 388 a group for 0.5 against 0.6, without continuity correction.
    assert power_analysis.items_unpaired(0.5, 0.6) == 388
    # One model is correct in all of the disagreements: (1.960 sqrt(0.1) + 0.8416 sqrt(0.09))^2 / 0.01 = 76.1.
    assert power_analysis.items_paired(0.6, 0.5, 0.1) == 77
    # Means: (1.960 + 0.8416)^2 = 7.849.
    assert power_analysis.items_loss(0.1, 1.0) == 785


@pytest.mark.parametrize("items", [150, 1000, 20_000])
def test_the_detectable_difference_is_the_inverse(items):
    rise = power_analysis.detectable_difference_unpaired(items, 0.4)
    assert power_analysis.items_unpaired(0.4, 0.4 + rise) == items
    rise = power_analysis.detectable_difference_paired(items, 0.2)
    assert power_analysis.items_paired(0.5, 0.5 + rise, 0.2) == items


def test_models_that_agree_need_fewer_items():
    needed = [power_analysis.items_paired(0.7, 0.72, d) for d in (0.02, 0.05, 0.2, 0.4)]
    assert needed == sorted(needed)
    independent = power_analysis.items_paired(0.7, 0.72)
    assert independent == pytest.approx(power_analysis.items_unpaired(0.7, 0.72), rel=1e-2)


def test_guessing_is_significant_as_often_as_alpha():
    correct_S = np.random.default_rng(0).binomial(400, 0.25, 2000)
    p_values = [power_analysis.chance_p_value(int(correct), 400, 0.25) for correct in correct_S]
    assert 0.03 < np.mean(np.array(p_values) < 0.05) < 0.055
    assert power_analysis.chance_p_value(140, 400, 0.25) < 1e-4


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: power_analysis.items_unpaired(0.5, 0.5), "are equal"),
        (lambda: power_analysis.items_unpaired(50, 0.5), "share=50 .* not percent"),
        (lambda: power_analysis.items_paired(0.5, 0.6, 0.05), "disagreement=0.05 .* between 0.1 and 0.9"),
        (lambda: power_analysis.detectable_difference_unpaired(1, 0.9), "items=1 .* more items"),
        (lambda: power_analysis.detectable_difference_paired(20, 0.05), "items=20 with disagreement=0.05"),
        (lambda: power_analysis.items_loss(0.0, 1.0), "difference=0"),
        (lambda: power_analysis.items_unpaired(0.5, 0.6, power=1.0), "power=1.0"),
        (lambda: power_analysis.chance_p_value(5, 4, 0.5), "correct=5 of items=4"),
        (lambda: power_analysis.standard_deviation([1.0]), "at least two items"),
    ],
)
def test_impossible_arguments_are_rejected(call, message):
    with pytest.raises(ValueError, match=message):
        call()

"""Emergence: planted breaks are found, smooth curves under a sharp metric are not taken for them."""

import numpy as np
import pytest

from t5x_like.scaling.laws.table import from_rows
from t5x_like.scaling.studies import emergence

SIZES = np.geomspace(1e6, 1e9, 10)
LENGTH, ITEMS = 10, 2000


def power(share: float = 1.0) -> np.ndarray:
    """A smooth cost of a token, nats."""
    return share * (SIZES / 1e6) ** -0.5


def with_break() -> np.ndarray:
    """No progress with size, and then all at once."""
    return np.where(SIZES < 3e7, 1.0, 0.04) * (SIZES / 1e6) ** -0.05


def table(cost_N, seed=0, runs=1):
    """Runs whose tokens are right with probability exp(-cost), each by itself."""
    rng = np.random.default_rng(seed)
    rows = []
    for size, cost in [pair for pair in zip(SIZES, cost_N, strict=True) for _ in range(runs)]:
        right = rng.random((ITEMS, LENGTH)) < np.exp(-cost)
        shares = {"exact_match": right.all(1).mean(), "token_accuracy": right.mean(), "loss": cost}
        rows.append({"n_params": size, **shares})
    return from_rows(rows)


def test_a_jump_of_exact_match_over_a_smooth_token_is_the_metrics_resolution():
    found = emergence.emergence(table(power()), LENGTH, ITEMS, chance=0.01)
    assert found.verdict == emergence.RESOLUTION and found.explained
    assert found.exact_N[0] < 0.005 and found.exact_N[-1] > 0.6
    assert found.threshold == SIZES[3]  # exp(-10 cost) is 0.0096 before it and 0.042 at it
    np.testing.assert_allclose(found.foretold_N, found.exact_N, atol=0.05)


def test_a_planted_break_is_found_where_it_is():
    found = emergence.emergence(table(with_break(), runs=2), LENGTH, ITEMS)
    assert found.verdict == emergence.BREAK
    assert found.broken.below < 3e7 < found.broken.above
    assert found.broken.broken_error < found.broken.smooth_error / 3


def test_a_jump_at_the_largest_size_may_be_either():
    jump = np.where(np.arange(len(SIZES)) < len(SIZES) - 1, power(0.3) + 0.7, 0.01)
    assert emergence.emergence(table(jump), LENGTH, ITEMS, chance=0.01).verdict == emergence.UNCLEAR


def test_what_is_there_from_the_start_is_gradual_and_what_never_comes_is_absent():
    assert emergence.emergence(table(power(0.1)), LENGTH, ITEMS).verdict == emergence.GRADUAL
    never = emergence.emergence(table(power(4.0) + 4.0), LENGTH, ITEMS)
    assert never.verdict == emergence.ABSENT and never.threshold is None


@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_smooth_curves_seem_broken_as_rarely_as_alpha_says(floor):
    rng = np.random.default_rng(1)
    costs = [(power() + floor) * np.exp(rng.normal(0, 0.03, len(SIZES))) for _ in range(40)]
    assert np.mean([emergence.broken(SIZES, cost, samples=200).p_value < 0.05 for cost in costs]) <= 0.15


def test_left_out_residuals_are_those_of_a_fit_without_that_size():
    rng = np.random.default_rng(0)
    x_R, y_R = np.repeat(np.arange(6.0), 2), rng.normal(size=12)
    design = np.stack([np.ones_like(x_R), x_R, x_R**2], axis=1)
    found = emergence.left_out_residuals(design, x_R) @ y_R
    for size in np.unique(x_R):
        out = x_R == size
        theta = np.linalg.lstsq(design[~out], y_R[~out], rcond=None)[0]
        np.testing.assert_allclose(found[out], y_R[out] - design[out] @ theta, atol=1e-9)


def test_metrics_stand_side_by_side():
    logp_BL = np.log(np.array([[0.5, 0.5, 1.0], [0.2, 0.8, 0.1], [0.3, 0.3, 0.3]]))
    right_BL = np.array([[True, True, False], [False, True, True], [True, True, True]])
    weights_BL = np.array([[1, 1, 0], [1, 1, 1], [0, 0, 0]])
    found = emergence.measured(logp_BL, right_BL, weights_BL)
    brier = (0.75**2 + (1 - 0.016) ** 2) / 2
    expected = {"exact_match": 0.5, "token_accuracy": 0.8, "wrong_tokens": 0.5, "brier": brier, "items": 2}
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert found["loss"] == pytest.approx(-np.log(0.5 * 0.5 * 0.2 * 0.8 * 0.1) / 5)


def test_answers_of_several_lengths_are_foretold_by_their_mean():
    assert emergence.foretold([0.5], [1, 3])[0] == pytest.approx((0.5 + 0.125) / 2)
    assert emergence.foretold([0.5, 1.0], 2).tolist() == [0.25, 1.0]


def test_runs_of_a_size_are_averaged():
    curves = emergence.by_size(from_rows([{"n_params": n, "loss": x} for n, x in ((2, 1), (1, 5), (2, 3))]), ("loss",))
    assert {name: x.tolist() for name, x in curves.items()} == {"n_params": [1, 2], "loss": [5, 2], "runs": [1, 2]}


def test_a_run_that_was_not_measured_leaves_the_others_means_alone():
    rows = [{"n_params": 1, "loss": 5, "exact": 0.5}, {"n_params": 1, "loss": 4}, {"loss": 3, "exact": 1.0}]
    rows += [{"n_params": 2, "loss": 2, "exact": 0.75}]
    curves = emergence.by_size(from_rows(rows), ("loss", "exact"))
    kept = {"n_params": [1, 2], "loss": [5, 2], "exact": [0.5, 0.75], "runs": [1, 1]}
    assert {name: x.tolist() for name, x in curves.items()} == kept


def test_a_threshold_must_hold_for_all_larger_sizes():
    found = emergence.threshold([1, 2, 3, 4], [25, 60, 26, 90], [100] * 4, 0.25)
    assert found == 4.0
    assert emergence.threshold([4, 1, 2, 3], [90, 25, 60, 50], [100] * 4, 0.25) == 2.0


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: emergence.broken(SIZES[:5], power()[:5]), "5 sizes show no break; 6 are the least"),
        (lambda: emergence.broken(SIZES, 1 - power()), "costs go down to 0.0"),
        (lambda: emergence.measured(np.zeros((1, 2)), np.ones((1, 2), bool), np.zeros((1, 2))), "no answer"),
        (
            lambda: emergence.emergence(from_rows([{"n_params": 1, "exact_match": 50, "token_accuracy": 0.5}]), 2, 9),
            "'exact_match' runs from 50.0 to 50.0; give shares",
        ),
    ],
)
def test_what_cannot_be_judged_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()

"""Emergence: planted breaks are detected, smooth curves under a sharp metric are not mistaken for breaks."""

import numpy as np
import pytest

from t5x_like.scaling.laws.table import from_rows
from t5x_like.scaling.studies import emergence

SIZES = np.geomspace(1e6, 1e9, 10)
LENGTH, ITEMS = 10, 2000


def smooth_cost(share: float = 1.0) -> np.ndarray:
    """Returns a smooth cost of a token, in nats."""
    return share * (SIZES / 1e6) ** -0.5


def broken_cost() -> np.ndarray:
    """Returns a cost with no progress, then a sudden drop."""
    return np.where(SIZES < 3e7, 1.0, 0.04) * (SIZES / 1e6) ** -0.05


def table(cost_N, seed=0, runs=1):
    """Runs whose tokens are independently correct with probability exp(-cost)."""
    rng = np.random.default_rng(seed)
    rows = []
    for size, cost in [pair for pair in zip(SIZES, cost_N, strict=True) for _ in range(runs)]:
        correct = rng.random((ITEMS, LENGTH)) < np.exp(-cost)
        shares = {"exact_match": correct.all(1).mean(), "token_accuracy": correct.mean(), "loss": cost}
        rows.append({"n_params": size, **shares})
    return from_rows(rows)


def test_a_jump_of_exact_match_over_a_smooth_token_cost_is_metric_resolution():
    result = emergence.analyze_emergence(table(smooth_cost()), LENGTH, ITEMS, chance=0.01)
    assert result.verdict == emergence.RESOLUTION and result.explained
    assert result.exact_N[0] < 0.005 and result.exact_N[-1] > 0.6
    assert result.threshold == SIZES[3]  # exp(-10 cost) is 0.0096 before it and 0.042 at it
    np.testing.assert_allclose(result.predicted_N, result.exact_N, atol=0.05)


def test_a_planted_break_is_located():
    result = emergence.analyze_emergence(table(broken_cost(), runs=2), LENGTH, ITEMS)
    assert result.verdict == emergence.BREAK
    assert result.best_break.below < 3e7 < result.best_break.above
    assert result.best_break.broken_error < result.best_break.smooth_error / 3


def test_a_jump_at_the_largest_size_is_unclear():
    jump = np.where(np.arange(len(SIZES)) < len(SIZES) - 1, smooth_cost(0.3) + 0.7, 0.01)
    assert emergence.analyze_emergence(table(jump), LENGTH, ITEMS, chance=0.01).verdict == emergence.UNCLEAR


def test_an_ability_of_all_sizes_is_gradual_and_one_of_none_is_absent():
    assert emergence.analyze_emergence(table(smooth_cost(0.1)), LENGTH, ITEMS).verdict == emergence.GRADUAL
    never = emergence.analyze_emergence(table(smooth_cost(4.0) + 4.0), LENGTH, ITEMS)
    assert never.verdict == emergence.ABSENT and never.threshold is None


@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_smooth_curves_rarely_seem_broken(floor):
    rng = np.random.default_rng(1)
    costs = [(smooth_cost() + floor) * np.exp(rng.normal(0, 0.03, len(SIZES))) for _ in range(40)]
    assert np.mean([emergence.fit_break(SIZES, cost, samples=200).p_value < 0.05 for cost in costs]) <= 0.15


def test_left_out_residuals_match_fits_without_that_size():
    rng = np.random.default_rng(0)
    x_R, y_R = np.repeat(np.arange(6.0), 2), rng.normal(size=12)
    design = np.stack([np.ones_like(x_R), x_R, x_R**2], axis=1)
    result = emergence.left_out_residuals(design, x_R) @ y_R
    for size in np.unique(x_R):
        out = x_R == size
        theta = np.linalg.lstsq(design[~out], y_R[~out], rcond=None)[0]
        np.testing.assert_allclose(result[out], y_R[out] - design[out] @ theta, atol=1e-9)


def test_answers_are_measured_by_all_metrics():
    logp_BL = np.log(np.array([[0.5, 0.5, 1.0], [0.2, 0.8, 0.1], [0.3, 0.3, 0.3]]))
    correct_BL = np.array([[True, True, False], [False, True, True], [True, True, True]])
    weights_BL = np.array([[1, 1, 0], [1, 1, 1], [0, 0, 0]])
    result = emergence.measure_answers(logp_BL, correct_BL, weights_BL)
    brier = (0.75**2 + (1 - 0.016) ** 2) / 2
    expected = {"exact_match": 0.5, "token_accuracy": 0.8, "wrong_tokens": 0.5, "brier": brier, "items": 2}
    assert {name: result[name] for name in expected} == pytest.approx(expected)
    assert result["loss"] == pytest.approx(-np.log(0.5 * 0.5 * 0.2 * 0.8 * 0.1) / 5)


def test_answers_of_several_lengths_are_averaged():
    assert emergence.predict_exact_match([0.5], [1, 3])[0] == pytest.approx((0.5 + 0.125) / 2)
    assert emergence.predict_exact_match([0.5, 1.0], 2).tolist() == [0.25, 1.0]


def test_runs_of_a_size_are_averaged():
    curves = emergence.average_by_size(
        from_rows([{"n_params": n, "loss": x} for n, x in ((2, 1), (1, 5), (2, 3))]), ("loss",)
    )
    assert {name: x.tolist() for name, x in curves.items()} == {"n_params": [1, 2], "loss": [5, 2], "runs": [1, 2]}


def test_runs_without_a_metric_are_left_out():
    rows = [{"n_params": 1, "loss": 5, "exact": 0.5}, {"n_params": 1, "loss": 4}, {"loss": 3, "exact": 1.0}]
    rows += [{"n_params": 2, "loss": 2, "exact": 0.75}]
    curves = emergence.average_by_size(from_rows(rows), ("loss", "exact"))
    expected = {"n_params": [1, 2], "loss": [5, 2], "exact": [0.5, 0.75], "runs": [1, 1]}
    assert {name: x.tolist() for name, x in curves.items()} == expected


def test_a_threshold_must_hold_for_all_larger_sizes():
    result = emergence.find_threshold([1, 2, 3, 4], [25, 60, 26, 90], [100] * 4, 0.25)
    assert result == 4.0
    assert emergence.find_threshold([4, 1, 2, 3], [90, 25, 60, 50], [100] * 4, 0.25) == 2.0


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: emergence.fit_break(SIZES[:5], smooth_cost()[:5]), "5 sizes cannot show a break; at least 6"),
        (lambda: emergence.fit_break(SIZES, 1 - smooth_cost()), "costs go down to 0.0"),
        (lambda: emergence.measure_answers(np.zeros((1, 2)), np.ones((1, 2), bool), np.zeros((1, 2))), "no answer"),
        (
            lambda: emergence.analyze_emergence(
                from_rows([{"n_params": 1, "exact_match": 50, "token_accuracy": 0.5}]), 2, 9
            ),
            "'exact_match' runs from 50.0 to 50.0; give shares",
        ),
    ],
)
def test_impossible_tables_are_rejected(call, message):
    with pytest.raises(ValueError, match=message):
        call()

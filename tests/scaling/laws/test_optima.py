"""Optima of tables: planted exponents are recovered, and a minimum at an edge is rejected."""

import numpy as np
import pytest

from t5x_like.scaling.laws import fit, laws, optima, trend
from t5x_like.scaling.laws.table import Table, from_rows
from tests.scaling.laws import planted

THETA = laws.CHINCHILLA.theta(planted.CHINCHILLA)
A = planted.CHINCHILLA["beta"] / (planted.CHINCHILLA["alpha"] + planted.CHINCHILLA["beta"])  # N_opt ~ C^A


def budgets(shift: float = 1.0, noise: float = 0.0) -> Table:
    """Six budgets of seven sizes, centred a factor of `shift` from the optimum."""
    flops = np.repeat(np.geomspace(1e18, 1e21, 6), 7)
    n = np.sqrt(flops / 120) * shift * np.tile(np.geomspace(0.35, 2.8, 7), 6)
    return planted.table(
        laws.CHINCHILLA, 42, noise, columns={"n_params": n, "tokens": flops / 6 / n, "flops_6nd": flops}
    )


def test_isoflop_finds_the_exponents_of_the_closed_form():
    reduced = optima.isoflop_optima(budgets(noise=0.002))
    assert len(reduced) == 6
    np.testing.assert_allclose(reduced["flops_6nd"], 6 * reduced["n_params"] * reduced["tokens"], rtol=1e-9)
    for law, truth in zip(optima.compute_laws(reduced), (A, 1 - A), strict=True):
        it = fit.fit(reduced, law, starts=9, bootstraps=128, level=0.99).parameters["p"]
        assert it.low <= truth <= it.high
        assert abs(it.value - truth) < 0.05


@pytest.mark.parametrize(("shift", "side"), [(30.0, "lower edge"), (1 / 30, "upper edge")])
def test_a_minimum_at_the_edge_is_rejected(shift, side):
    with pytest.raises(ValueError, match=side):
        optima.isoflop_optima(budgets(shift))


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [("tokenizer", ["a", "b"] * 21, "tokenizer"), ("flops_6nd", np.tile([1.0, 1.35], 21), "mixed FLOP counts")],
)
def test_incomparable_runs_are_rejected(column, values, message):
    runs = budgets()
    changed = runs[column] * values if column in runs else values
    with pytest.raises(ValueError, match=message):
        optima.isoflop_optima(runs.with_column(column, changed))


def test_one_bad_budget_is_dropped_by_name():
    runs = budgets()
    flops = runs["flops_6nd"]
    keep = (flops < flops.max()) | (runs["n_params"] > np.sqrt(flops.max() / 120) * 0.9)
    reduced = optima.isoflop_optima(runs.take(keep))
    assert len(reduced) == 5
    assert "flops_6nd 1e+21" in reduced.steps[-1].rule
    assert "lower edge" in reduced.steps[-1].why


def test_the_envelope_of_curves_finds_the_same_exponent():
    sizes = np.geomspace(5e7, 1e10, 14)
    rows = [{"run_id": f"{n:.3g}", "n_params": n, "tokens": n * r} for n in sizes for r in np.geomspace(2, 200, 30)]
    curves = from_rows(rows)
    curves = curves.with_column("loss", laws.CHINCHILLA.predict(THETA, curves)[0])
    reduced = optima.envelope_optima(curves)
    assert sizes.min() < reduced["n_params"].min() <= reduced["n_params"].max() < sizes.max()
    slope = np.polyfit(np.log(reduced["flops_6nd"]), np.log(reduced["n_params"]), 1)[0]
    assert slope == pytest.approx(A, abs=0.01)


def test_an_envelope_needs_training_curves():
    with pytest.raises(ValueError, match="training curves"):
        optima.envelope_optima(budgets())


def tuning_runs(name: str, exponent: float) -> Table:
    """Runs at 5 sizes and 7 values of a hyperparameter whose best value is proportional to N^exponent."""
    n = np.repeat(np.geomspace(1e6, 1e8, 5), 7)
    value = 0.2 * n**exponent * np.tile(np.geomspace(0.2, 5, 7), 5)
    loss = 3 * (n / 1e6) ** -0.1 + 0.05 * np.log(value / (0.2 * n**exponent)) ** 2
    return Table({"n_params": n, "tokens": 20 * n, "lr": np.full(35, 1e-3), name: value, "loss": loss})


@pytest.mark.parametrize(
    ("analysis", "name", "exponent"), [(optima.LR, "lr", -0.3), (optima.BATCH, "batch_tokens", 0.4)]
)
def test_laws_of_learning_rate_and_batch_are_recovered(analysis, name, exponent):
    reduced = analysis.reduce(tuning_runs(name, exponent), "loss")
    law = analysis.laws(reduced)[0]
    assert law.inputs == ("n_params",)  # tokens are proportional to it
    result = fit.fit(reduced, law, starts=9, bootstraps=64)
    assert result.constants == pytest.approx({"k": 0.2, "p": exponent}, rel=1e-6)


SIZES = np.geomspace(1e6, 1e9, 12)


@pytest.mark.parametrize(
    ("score", "shape"),
    [
        (np.log(SIZES), trend.Shape.RISES),
        (-np.log(SIZES), trend.Shape.FALLS),
        (np.log10(SIZES / 3e7) ** 2, trend.Shape.U),
        (-(np.log10(SIZES / 3e7) ** 2), trend.Shape.INVERTED_U),
        (np.zeros(12), trend.Shape.FLAT),
    ],
)
def test_the_shape_of_a_noisy_score_is_classified(score, shape):
    noise = np.random.default_rng(0).normal(0, 0.1, len(score))
    assert trend.classify_trend(SIZES, score + noise).shape is shape


def test_noise_has_no_trend():
    noise = np.random.default_rng(0).normal(0, 1, (100, 12))
    result = [trend.classify_trend(SIZES, each).shape for each in noise]
    assert np.mean([shape is not trend.Shape.FLAT for shape in result]) <= 0.12


def test_a_saturating_score_is_not_u_shaped():
    """A fitted parabola would turn; two lines do not."""
    score = 1 - np.exp(-np.arange(12) / 2.0) + np.random.default_rng(0).normal(0, 0.01, 12)
    assert trend.classify_trend(SIZES, score).shape is trend.Shape.RISES

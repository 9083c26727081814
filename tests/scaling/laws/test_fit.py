"""Fits against independent optimisers and bootstraps; identifiability; backtests; coverage of intervals."""

import numpy as np
import pytest
from scipy import optimize

from t5x_like.scaling.laws import backtest, fit, laws, solver
from t5x_like.scaling.laws.laws import CHINCHILLA
from t5x_like.scaling.laws.table import Table
from tests.scaling.laws import planted

ROWS = 96


@pytest.fixture(scope="module")
def rows():
    return planted.table(CHINCHILLA, ROWS, noise=0.01)


@pytest.fixture(scope="module")
def result(rows):
    return fit.fit(rows, CHINCHILLA, starts=64, bootstraps=256)


def objective(theta, x, y, delta):
    """Returns Huber's sum over delta, and its gradient, in NumPy."""
    terms = np.stack([np.full(len(y), theta[0]), theta[1] - theta[3] * x[:, 0], theta[2] - theta[4] * x[:, 1]])
    top = terms.max(0)
    parts = np.exp(terms - top)
    residual, parts = top + np.log(parts.sum(0)) - y, parts / parts.sum(0)
    size = np.abs(residual)
    slope = np.clip(residual, -delta, delta)
    gradient = [*(parts @ slope), -(slope * parts[1]) @ x[:, 0], -(slope * parts[2]) @ x[:, 1]]
    return np.where(size <= delta, size**2 / 2, delta * (size - delta / 2)).sum() / delta, np.array(gradient) / delta


def fit_with_scipy(x, y, delta):
    """Runs scipy's BFGS from the planted constants, with a shrinking Huber width."""
    theta = CHINCHILLA.theta(planted.CHINCHILLA)
    for width in [1e-2 * 3.0**-i for i in range(40)]:
        width = max(width, delta)
        for _ in range(3):
            theta = optimize.minimize(objective, theta, (x, y, width), "BFGS", jac=True, options={"gtol": 1e-12}).x
        if width == delta:
            return theta, objective(theta, x, y, delta)[0] * delta


WIDE = [solver.Objective(f"Huber, delta {delta}", delta) for delta in (0.1, 0.01)]


@pytest.mark.parametrize("chosen", [solver.HUBER, solver.L1, *WIDE], ids=lambda chosen: chosen.name)
def test_the_optimum_matches_an_independent_optimiser_to_four_digits(rows, chosen):
    x, y = CHINCHILLA.features(rows), CHINCHILLA.targets(rows)
    theta, lowest = fit_with_scipy(x, y, chosen.delta)
    ours, certificate = fit.find_optimum(CHINCHILLA, chosen, x, y, 64, np.random.default_rng(0))
    assert certificate.objective <= lowest / chosen.divisor * (1 + 1e-6)
    np.testing.assert_allclose(CHINCHILLA.values(ours), CHINCHILLA.values(theta), rtol=1e-4)


def test_published_grid_points_lead_to_the_same_optimum(rows, result):
    """Starts of Hoffmann et al. 2022 are far worse than ours and reach the same optimum."""
    x, y = CHINCHILLA.features(rows), CHINCHILLA.targets(rows)
    far = laws.cartesian_product([-1.0, 1.0], [5.0, 25.0], [5.0, 25.0], [0.0, 0.5, 2.0], [0.0, 0.5, 2.0])
    theta, value = solver.minimize(CHINCHILLA.function, solver.HUBER, far, x, y)
    np.testing.assert_allclose(theta[value.argmin()], result.theta, rtol=1e-5)


def test_fixed_parameters_do_not_move(rows):
    x, y = CHINCHILLA.features(rows), CHINCHILLA.targets(rows)
    start = CHINCHILLA.theta(planted.CHINCHILLA | {"E": 1.5})[None]
    theta, _ = solver.minimize(CHINCHILLA.function, solver.HUBER, start, x, y, free_SP=np.array([0, 1, 1, 1, 1]))
    assert theta[0, 0] == start[0, 0]
    assert (theta[0, 1:] != start[0, 1:]).all()


def test_bootstrap_refits_match_full_fits_of_the_same_rows(rows, result):
    """Warm starts lose nothing: scipy from the planted constants ends no lower."""
    x, y = CHINCHILLA.features(rows), CHINCHILLA.targets(rows)
    generator = np.random.default_rng(1)
    sampled = generator.integers(0, ROWS, (8, ROWS))
    weights = np.array([np.bincount(each, minlength=ROWS) for each in sampled])
    starts = np.repeat(result.theta[None], 8, 0)
    theta, _ = solver.minimize(
        CHINCHILLA.function, solver.HUBER, starts, x, y, weights, stages=solver.HUBER.near_stages
    )
    for each, rows_sampled in zip(theta, sampled, strict=True):
        expected, _ = fit_with_scipy(x[rows_sampled], y[rows_sampled], solver.HUBER.delta)
        np.testing.assert_allclose(each, expected, rtol=1e-3)


def test_standard_errors_match_the_spread_over_fresh_tables(result):
    """192 tables have the same law and new noise."""
    x = CHINCHILLA.features(planted.runs(ROWS))
    clean = laws.evaluate(CHINCHILLA.function, CHINCHILLA.theta(planted.CHINCHILLA)[None], x)[0]
    noisy = clean + np.random.default_rng(5).normal(0, 0.01, (192, ROWS))
    starts = np.repeat(result.theta[None], 192, 0)
    theta, _ = solver.minimize(CHINCHILLA.function, solver.HUBER, starts, x, noisy)
    np.testing.assert_allclose(result.draws.std(0), theta.std(0), rtol=0.35)


def test_intervals_have_their_nominal_coverage():
    """100 small ladders, the hardest case, each with a run of ten times the compute to predict."""
    flops = np.repeat(np.geomspace(1e17, 3e18, 4), 6)
    n = np.sqrt(flops / 120) * np.tile(np.geomspace(0.3, 3, 6), 4)
    columns = {"n_params": n, "tokens": flops / 6 / n, "flops_6nd": flops}
    target = {"n_params": [np.sqrt(3e19 / 120)], "tokens": [np.sqrt(3e19 / 120) * 20]}
    truth = CHINCHILLA.predict(CHINCHILLA.theta(planted.CHINCHILLA), target)[0, 0]
    covered = []
    for seed in range(100):
        table = planted.table(CHINCHILLA, 24, 0.004, seed, columns)
        x, y = CHINCHILLA.features(table), CHINCHILLA.targets(table)
        generator = np.random.default_rng(seed)
        start = CHINCHILLA.theta(planted.CHINCHILLA)[None]
        theta = solver.minimize(CHINCHILLA.function, solver.HUBER, start, x, y)[0][0]
        draws, kind = fit.bootstrap(CHINCHILLA, solver.HUBER, theta, x, y, 64, generator)
        assert kind == "normal noise"
        residuals = y - laws.evaluate(CHINCHILLA.function, theta[None], x)[0]
        result = fit.Fit(CHINCHILLA, solver.HUBER, theta, draws, residuals, {}, None, None, kind, 0.8, (), {})
        predicted, actual = result.predict(target), truth * np.exp(generator.normal(0, 0.004))
        covered.append(predicted.low[0] <= actual <= predicted.high[0])
    assert 0.7 <= np.mean(covered) <= 0.9  # 80% of 100, within 2.5 standard errors


def test_one_size_does_not_identify_the_exponent_of_size():
    columns = planted.runs(ROWS)
    columns |= {"n_params": np.full(ROWS, 1e8), "flops_6nd": 6e8 * columns["tokens"]}
    parameters = fit.fit(
        planted.table(CHINCHILLA, ROWS, columns=columns), CHINCHILLA, starts=64, bootstraps=64
    ).parameters
    assert [name for name in parameters if not parameters[name].identified] == ["E", "A", "alpha"]
    assert "value fits as well" in parameters["alpha"].why


def test_profiles_and_bootstraps_agree_where_parameters_are_identified(result):
    low, high = np.quantile(result.draws, [0.025, 0.975], axis=0)
    width = np.array(result.identification.high) - np.array(result.identification.low)
    assert np.isfinite(width).all()
    np.testing.assert_allclose(width, high - low, rtol=0.5)


def test_the_planted_law_has_the_best_backtest(rows):
    backtests = backtest.compare(rows, [laws.LOSS_VS_COMPUTE, CHINCHILLA])
    assert [each.law for each in backtests] == [CHINCHILLA, laws.LOSS_VS_COMPUTE]
    assert backtests[0].error < 0.03
    assert all(fold.extrapolation > 1 for fold in backtests[0].folds)
    assert all(fold.fitted_rows + fold.held_out_rows == ROWS for fold in backtests[0].folds)


def test_cuts_never_split_a_budget():
    budgets = np.repeat([1e14, 3e14, 1e15, 3e15], 5) * np.tile(1 + 1e-4 * np.arange(5), 4)
    masks = backtest.choose_cuts(budgets, 8)
    assert [mask.sum() for mask in masks] == [10, 15]
    assert backtest.choose_cuts(budgets, 16) == []


def test_a_fit_read_from_disk_predicts_the_same(result, tmp_path):
    result.write(tmp_path / "fit.json")
    again, at = fit.read(tmp_path / "fit.json"), {"n_params": [7e10], "tokens": [1.4e12]}
    for one, other in zip(result.predict(at).__dict__.values(), again.predict(at).__dict__.values(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert again.parameters == result.parameters
    (tmp_path / "no.json").write_text("{}")
    with pytest.raises(ValueError, match="is not a fit"):
        fit.read(tmp_path / "no.json")


def test_the_process_stays_in_float32(result):
    import jax.numpy as jnp

    assert jnp.ones(1).dtype == jnp.float32
    assert result.theta.dtype == np.float64


def test_noise_free_tables_give_the_constants_to_many_digits():
    result = fit.fit(planted.table(CHINCHILLA, ROWS, noise=0.0), CHINCHILLA, starts=64, bootstraps=64)
    assert result.constants == pytest.approx(planted.CHINCHILLA, rel=1e-5)


def test_too_few_rows_are_rejected(rows):
    few = Table({name: values[:7] for name, values in rows.columns.items()})
    with pytest.raises(ValueError, match="5 parameters and 7 usable rows .* at least 8"):
        fit.fit(few, CHINCHILLA)

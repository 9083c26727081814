"""Plans: the closed form, papers' numbers, limits and inference; forecasts are verified and tamper-proof."""

import dataclasses
import json

import numpy as np
import pytest
from scipy import optimize

from t5x_like.scaling.laws import fit, laws
from t5x_like.scaling.planning import forecast, plan, presets
from t5x_like.scaling.planning.plan import Budget
from tests.scaling.laws import planted

LOSS_LAWS = (presets.HOFFMANN, presets.BESIROGLU)


@pytest.fixture(scope="module")
def fitted():
    return fit.fit(planted.table(laws.CHINCHILLA, 96), laws.CHINCHILLA, starts=64, bootstraps=256)


@pytest.mark.parametrize("preset", LOSS_LAWS)
@pytest.mark.parametrize("flops", [1e15, 5.76e23])
def test_the_closed_form_is_the_numeric_minimum(preset, flops):
    """a = beta / (alpha + beta) is the right way round: scipy, on the equation itself, agrees with both."""
    e, a, b, alpha, beta = preset.constants.values()
    loss = lambda log_n: e + a * np.exp(-alpha * log_n) + b * (flops / 6 / np.exp(log_n)) ** -beta  # noqa: E731
    best = optimize.minimize_scalar(loss, bounds=(5, 40), method="bounded", options={"xatol": 1e-10})
    n, d = plan.closed_form_optimum(preset.constants, flops)
    result = plan.from_preset(Budget(flops), preset)
    assert n == pytest.approx(np.exp(best.x), rel=1e-5)
    assert result.n_params.value == pytest.approx(n, rel=1e-6)
    assert result.tokens.value == pytest.approx(d, rel=1e-6)
    assert result.loss.value == pytest.approx(best.fun, rel=1e-12)


def test_presets_match_the_papers():
    """Hoffmann's approach 1 at Gopher's budget, approach 2, and Kaplan's exponent."""
    gopher = plan.from_preset(Budget(5.76e23), presets.HOFFMANN_1)
    assert gopher.n_params.value == pytest.approx(67e9, rel=0.01)
    assert gopher.tokens.value == pytest.approx(1.5e12, rel=0.05)
    small = plan.from_preset(Budget(1.21e20), presets.HOFFMANN_1)
    assert small.n_params.value == pytest.approx(1e9, rel=0.04)
    assert plan.from_preset(Budget(6.88e23), presets.HOFFMANN_2).n_params.value == pytest.approx(67e9, rel=0.06)
    kaplan = [plan.from_preset(Budget(c * presets.PF_DAY), presets.KAPLAN) for c in (1.0, 10.0)]
    assert kaplan[0].n_params.value == pytest.approx(1.3e9)
    assert kaplan[1].n_params.value / kaplan[0].n_params.value == pytest.approx(10**0.73)
    assert kaplan[0].loss.value == pytest.approx(3.1e8**0.05)


def test_limits_hold_and_raise_the_loss():
    free = plan.from_preset(Budget(1e21), presets.BESIROGLU)
    bound = plan.from_preset(Budget(1e21, max_params=1e9), presets.BESIROGLU)
    assert bound.n_params.value == pytest.approx(1e9, rel=1e-6)
    assert bound.loss.value > free.loss.value
    assert 6 * bound.n_params.value * bound.tokens.value == pytest.approx(1e21)


def test_inference_shrinks_the_model_and_is_part_of_the_budget():
    free = plan.from_preset(Budget(1e21), presets.BESIROGLU)
    served = plan.from_preset(Budget(1e21, inference_tokens=1e11), presets.BESIROGLU)
    assert served.n_params.value < free.n_params.value
    assert served.training_flops + 2 * served.n_params.value * 1e11 == pytest.approx(1e21)
    # No other model reaches this loss with less training and inference together.
    constants = presets.BESIROGLU.constants
    n = np.geomspace(0.2, 5, 400) * served.n_params.value
    left = served.loss.value - constants["E"] - constants["A"] / n ** constants["alpha"]
    tokens = (constants["B"] / np.where(left > 0, left, np.nan)) ** (1 / constants["beta"])
    assert np.nanmin(6 * n * tokens + 2 * n * 1e11) >= 1e21 * (1 - 1e-6)


def test_limited_tokens_give_a_smaller_model_trained_longer():
    free = plan.from_preset(Budget(1e21), presets.BESIROGLU)
    ample = plan.from_preset(Budget(1e21, unique_tokens=1e14), presets.BESIROGLU)
    short = plan.from_preset(Budget(1e21, unique_tokens=1e9), presets.BESIROGLU)
    assert ample.n_params.value == pytest.approx(free.n_params.value, rel=1e-3)
    assert short.n_params.value < free.n_params.value
    assert short.loss.value > free.loss.value
    assert any("Muennighoff" in source for source in short.sources)


def test_the_intervals_of_a_fitted_plan_contain_the_planted_optimum(fitted):
    result = plan.from_fit(Budget(1e21), fitted)
    n, d = plan.closed_form_optimum(planted.CHINCHILLA, 1e21)
    loss = laws.CHINCHILLA.predict(laws.CHINCHILLA.theta(planted.CHINCHILLA), {"n_params": [n], "tokens": [d]})[0, 0]
    for quantity, truth in ((result.n_params, n), (result.tokens, d), (result.loss, loss)):
        assert quantity.low < truth < quantity.high
    a = plan.size_exponent(fitted)
    assert a.low < 0.366 / (0.366 + 0.348) < a.high


@pytest.mark.parametrize("n_params", [1e6, 1e8, 7e9, 7e10])
def test_shapes_have_the_requested_size(n_params):
    shape = plan.choose_shape(n_params)
    layer = 4 * shape["WIDTH"] ** 2 + 3 * shape["WIDTH"] * shape["MLP_DIM"]
    assert shape["LAYERS"] * layer == pytest.approx(n_params, rel=0.1)
    assert shape["HEADS"] * shape["HEAD_DIM"] == shape["WIDTH"]


@pytest.mark.parametrize("name", ["flops", "unique_tokens", "max_params"])
def test_impossible_budgets_are_rejected(name):
    with pytest.raises(ValueError, match=f"{name}=-1 is not a positive number"):
        Budget(**({"flops": 1e21} | {name: -1.0}))


def test_a_law_without_sizes_is_rejected():
    with pytest.raises(ValueError, match="kaplan_c is a law of flops_6nd; to plan, fit one of n_params and tokens"):
        plan.adapt_law(laws.KAPLAN_C, Budget(1e20))
    with pytest.raises(ValueError, match="only divides C"):
        plan.from_preset(Budget(1e20, inference_tokens=1.0), presets.KAPLAN)


AT = {"n_params": 7e10, "tokens": 1.4e12}


def test_a_forecast_is_scored_by_a_later_run(fitted, tmp_path):
    result = forecast.make_forecast(fitted, AT)
    forecast.register(result, tmp_path / "f.json")
    read = forecast.read(tmp_path / "f.json")
    assert read == result
    inside = forecast.verify(read, result.value * 1.001, "2999-01-01T00:00:00")
    outside = forecast.verify(read, result.value * 1.5, "2999-01-01T00:00:00+00:00")
    assert (inside.inside, outside.inside) == (True, False)
    assert inside.error == pytest.approx(1 / 1.001 - 1)
    with pytest.raises(ValueError, match="made after the start cannot be verified"):
        forecast.verify(read, 2.0, result.created)
    with pytest.raises(ValueError, match="not a time in ISO 8601"):
        forecast.verify(read, 2.0, "yesterday")


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(forecast.Forecast)])
def test_an_edited_forecast_is_rejected(fitted, tmp_path, field):
    path = tmp_path / "f.json"
    forecast.register(forecast.make_forecast(fitted, AT), path)
    content = json.loads(path.read_text())
    old = content[field]
    content[field] = {"x": 1.0} if isinstance(old, dict) else f"{old}0" if isinstance(old, str) else old + 1
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="was edited after it was registered"):
        forecast.read(path)


def test_a_forecast_is_never_overwritten(fitted, tmp_path):
    result = forecast.make_forecast(fitted, AT)
    forecast.register(result, tmp_path / "f.json")
    with pytest.raises(FileExistsError, match="written only once"):
        forecast.register(result, tmp_path / "f.json")


@pytest.mark.parametrize("actual", [0.0, float("nan"), float("inf")])
def test_an_impossible_result_is_rejected(fitted, actual):
    result = forecast.make_forecast(fitted, {"n_params": 1e11, "tokens": 1e12})
    with pytest.raises(ValueError, match="is not a loss that a run can reach"):
        forecast.verify(result, actual, "2999-01-01")


def test_impossible_runs_are_rejected(fitted):
    with pytest.raises(ValueError, match="n_params=-7e\\+10: a run has a positive number"):
        forecast.make_forecast(fitted, {"n_params": -7e10, "tokens": 1e12})


def test_a_plan_lists_its_caveats(fitted):
    assert any("x the largest n_params fitted" in source for source in plan.from_fit(Budget(1e26), fitted).sources)
    n = np.geomspace(1e7, 1e10, 16)
    one = planted.table(laws.CHINCHILLA, 16, columns={"n_params": n, "tokens": 20 * n, "flops_6nd": 120 * n**2})
    alike = fit.fit(one, laws.CHINCHILLA, starts=64, bootstraps=64)
    assert not any(alike.parameters[name].identified for name in ("A", "B", "alpha", "beta"))
    assert any(source.startswith("NOT IDENTIFIED") for source in plan.from_fit(Budget(1e21), alike).sources)


def test_inference_that_uses_the_whole_budget_is_rejected():
    with pytest.raises(ValueError, match="inference_tokens=1e\\+15 leave nothing of flops=1e\\+10"):
        Budget(1e10, inference_tokens=1e15)

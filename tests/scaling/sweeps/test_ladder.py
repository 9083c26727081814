"""A ladder's budgets fill its minutes, and its simulated forecast error grows with the noise."""

import dataclasses
import json
import types

import numpy as np
import pytest

from t5x_like.cli.gin.runtime import ConfigError
from t5x_like.cli.sweeping import ladder as sweep_ladder
from t5x_like.scaling.laws import table
from t5x_like.scaling.planning import shapes
from t5x_like.scaling.planning.recipes import Counts, PowerLaw, Recipe
from t5x_like.scaling.sweeps import designs, ladder
from t5x_like.scaling.sweeps.ladder import TimeBudgetLadder, Timing
from t5x_like.scaling.sweeps.sweep import Sweep

RULE = shapes.FixedDepth(layers=3, head_dim=8, head_vocab=384)
RECIPE = Recipe(PowerLaw(0.01), PowerLaw(2048))
DESIGN = TimeBudgetLadder(20.0, designs.AroundOptimum(RULE), seeds=(3, 2, 1), step=3.0)
TIMING = Timing(start=5.0, start_per_flop=1e-6, per_token=1e-6, per_flop=3e-11)


def counts(shape) -> Counts:
    n = round(RULE.estimate(shape))
    return Counts(n, n, n, 128, 7.0 * n)


def seconds(largest: float) -> tuple[float, float]:
    return DESIGN.estimate_seconds(largest, RECIPE, counts, TIMING, processes=2)


def test_the_budgets_fill_the_minutes():
    largest = DESIGN.largest_budget(seconds)
    assert sum(seconds(largest)) == pytest.approx(20 * 60, rel=0.03)
    assert sum(seconds(largest)) <= 20 * 60 * 1.005
    budgets = DESIGN.budgets(largest)
    assert list(budgets.values()) == [3, 2, 1] and list(budgets) == pytest.approx(
        [largest / 9, largest / 3, largest], rel=0.01
    )
    assert DESIGN.target(largest)[1] == pytest.approx(10 * largest)
    assert len(list(DESIGN.design(largest).points())) == 5 * (3 + 2 + 1)


def test_minutes_too_short_to_start_the_runs_are_refused():
    short = dataclasses.replace(DESIGN, minutes=0.5)
    with pytest.raises(ValueError, match="smallest ladder of 6 x 5 runs takes"):
        short.largest_budget(seconds)


def test_stored_budgets_hold_for_their_minutes_only(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep_ladder, "measure_timing", lambda *_: TIMING)
    monkeypatch.setattr(sweep_ladder, "expected_error", lambda *_: 0.01)
    base = types.SimpleNamespace(counts=counts, directory=tmp_path / "trials")
    config = Sweep(str(tmp_path), (), DESIGN, recipe=RECIPE)
    other = dataclasses.replace(config, design=dataclasses.replace(DESIGN, minutes=30.0))
    first = sweep_ladder.size_ladder(config, base).design
    monkeypatch.undo()
    assert (
        sweep_ladder.size_ladder(config, base).design
        == sweep_ladder.size_ladder(config, base, "--status").design
        == first
    )
    with pytest.raises(ConfigError, match=r"--minutes=30.* 20 minutes; give --minutes=20 .* or delete"):
        sweep_ladder.size_ladder(other, base)
    budgets = json.loads((tmp_path / "ladder.json").read_text())
    assert budgets.pop("minutes") == 20
    (tmp_path / "ladder.json").write_text(json.dumps(budgets))
    assert sweep_ladder.size_ladder(other, base).design == first


def test_two_sizes_give_the_timing():
    runs = [
        (f, TIMING.per_token + TIMING.per_flop * f, TIMING.start + TIMING.start_per_flop * f) for f in (1e5, 1e5, 3e6)
    ]
    fitted = ladder.fit_timing(runs)
    assert dataclasses.astuple(fitted) == pytest.approx(dataclasses.astuple(TIMING))
    assert fitted.seconds(1e6, 1e7) == pytest.approx(TIMING.seconds(1e6, 1e7))
    with pytest.raises(ValueError, match="1 distinct sizes"):
        ladder.fit_timing(runs[:2])


def test_the_simulated_error_grows_with_the_noise_and_falls_with_more_runs():
    n, d = np.meshgrid(np.geomspace(2e4, 5e5, 5), np.geomspace(3e5, 1e7, 5))
    runs = list(zip(n.ravel(), d.ravel(), strict=True))
    low, high, many = (
        ladder.simulate_forecast(more, (1e6, 3e7), DESIGN.assumed_law, noise)
        for more, noise in ((runs, 1e-3), (runs, 4e-3), (runs * 8, 4e-3))
    )
    assert 0 < low < many < high < 0.05


def test_seed_noise_is_measured_between_runs_that_differ_in_the_seed():
    random = np.random.default_rng(0)
    row = {"tokens": 1e6, "lr": 0.01, "batch_tokens": 2048, "status": "finished"}
    rows = [
        row | {"n_params": n, "seed": seed, "loss": np.exp(-np.log(n) + 0.01 * random.standard_normal())}
        for n in np.geomspace(1e4, 1e6, 200)
        for seed in range(3)
    ]
    assert ladder.seed_noise(table.from_rows(rows)) == pytest.approx(0.01, rel=0.1)
    assert ladder.seed_noise(table.from_rows(rows[::3])) is None

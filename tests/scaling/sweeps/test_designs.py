"""Designs yield their points, and recipes meet a budget within a step."""

import itertools
import random

import pytest

from t5x_like.scaling.planning import recipes, shapes
from t5x_like.scaling.planning.recipes import Counts, PowerLaw, Recipe
from t5x_like.scaling.sweeps import designs, sweep

COUNTS = Counts(n_params=50_000, n_total=60_000, n_active=60_000, row_tokens=128, exact_per_token=4e5)
RULE = shapes.FixedDepth(layers=2, head_dim=8)


@pytest.mark.parametrize("count", [recipes.flops_6n, recipes.flops_6n_total, recipes.flops_exact])
@pytest.mark.parametrize("budget", [1e11, 3.3e12])
def test_budgets_are_met_within_a_step(count, budget):
    recipe = Recipe(PowerLaw(0.01), PowerLaw(2.0, d=0.5), count=count)
    macros = recipe.macros(COUNTS, budget)
    per_step = macros["BATCH_SIZE"] * COUNTS.row_tokens * count(COUNTS)
    assert abs(macros["STEPS"] * per_step - budget) <= per_step
    row = recipes.run_columns(COUNTS, macros)
    assert row["flops_6nd"] == 6 * COUNTS.n_params * row["tokens"]


def test_batch_and_rate_follow_their_laws():
    recipe = Recipe(PowerLaw(1.79, n=-0.713, d=0.307), PowerLaw(0.58, d=0.571))
    macros, tokens = recipe.macros(COUNTS, 1e14), 1e14 / 6 / COUNTS.n_params
    assert macros["LEARNING_RATE"] == pytest.approx(1.79 * 50_000**-0.713 * tokens**0.307, rel=1e-5)
    assert macros["BATCH_SIZE"] * 128 == pytest.approx(0.58 * tokens**0.571, abs=64)
    assert macros["WARMUP_STEPS"] == round(0.05 * macros["STEPS"])


def test_a_budget_below_one_step_is_refused():
    with pytest.raises(ValueError, match="less than one step"):
        Recipe(PowerLaw(0.01), PowerLaw(2048)).macros(COUNTS, 1e8)


def test_isoflop_has_every_size_and_seed_of_every_budget():
    sizes = designs.AroundOptimum(RULE, count=3, factor=3)
    points = list(designs.IsoFlop({1e12: 2, 1e14: 1}, sizes).points())
    assert [point.flops for point in points] == [1e12] * 6 + [1e14] * 3
    assert [point.macros["SEED"] for point in points[:4]] == [0, 1, 0, 1]


def test_a_ladder_trains_each_size_on_its_tokens():
    points = list(designs.Ladder([1e5, 1e6], RULE, (10, 20)).points())
    assert [point.tokens_per_param for point in points] == [10, 20, 10, 20]


def test_a_grid_has_every_combination():
    axes = {"shape": ({"WIDTH": 8, "LAYERS": 1}, {"WIDTH": 16, "LAYERS": 2}), "LEARNING_RATE": (1e-3, 1e-2)}
    points = [point.macros for point in designs.Grid(axes).points()]
    assert points == [shape | {"LEARNING_RATE": rate} for shape, rate in itertools.product(*axes.values())]


def test_random_points_stay_when_more_are_drawn():
    axes = {"LEARNING_RATE": designs.LogUniform(1e-4, 1e-1), "WIDTH": designs.Choice((8, 16))}
    few, many = (list(designs.Random(axes, count).points()) for count in (3, 40))
    assert many[:3] == few
    rates = [point.macros["LEARNING_RATE"] for point in many]
    assert 1e-4 <= min(rates) < 1e-3 and 1e-2 < max(rates) <= 1e-1
    assert {point.macros["WIDTH"] for point in many} == {8, 16}
    assert designs.LogUniform(1, 10)(random.Random(0)) == designs.LogUniform(1, 10)(random.Random(0))


def test_a_budget_without_a_recipe_is_refused():
    with pytest.raises(ValueError, match="recipe is None"):
        sweep.point_macros(designs.Point({}, flops=1e12), None, resolver=None)

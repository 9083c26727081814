"""Shapes have the requested size, keep their proportions, and surround a budget's optimum."""

import itertools
import math

import pytest

from t5x_like.scaling.planning import shapes

FIXED = shapes.FixedDepth(layers=3, head_dim=8, head_vocab=384)


@pytest.mark.parametrize("n_params", [1e4, 1e5, 3e6])
def test_a_fixed_depth_gives_the_nearest_width(n_params):
    shape = FIXED(n_params)
    errors = {w: abs(math.log(FIXED.estimate(FIXED.from_width(w)) / n_params)) for w in range(8, 2000, 8)}
    assert shape["WIDTH"] == min(errors, key=errors.get) == shape["HEADS"] * shape["HEAD_DIM"]
    assert shape["LAYERS"] == 3 and shape["MLP_DIM"] == pytest.approx(8 / 3 * shape["WIDTH"], abs=4)


@pytest.mark.parametrize("n_params", [1e8, 1e9, 1e11])
def test_width_and_depth_grow_together(n_params):
    rule = shapes.Proportional(aspect=64, head_dim=64)
    shape = rule(n_params)
    assert 55 < shape["WIDTH"] / shape["LAYERS"] < 73
    assert 12 * shape["LAYERS"] * shape["WIDTH"] ** 2 == pytest.approx(n_params, rel=0.1)


def test_the_middle_size_of_a_budget_has_the_requested_tokens_per_parameter():
    ladder = shapes.around_optimum(1e15, FIXED, tokens_per_param=20, count=5, factor=2)
    sizes = [FIXED.estimate(shape) for shape in ladder]
    assert len(sizes) == 5 and sizes == sorted(sizes)
    assert 1e15 / (6 * sizes[2]) / sizes[2] == pytest.approx(20, rel=0.05)
    assert all(b / a == pytest.approx(2, rel=0.1) for a, b in itertools.pairwise(sizes))


def test_equal_shapes_are_merged():
    assert len(shapes.from_sizes([50_000, 50_001, 500_000], FIXED)) == 2

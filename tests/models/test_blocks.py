"""Placements against their formulas, written out by hand."""

import jax
import numpy as np
import pytest
from flax import linen as nn

from t5x_like.models import blocks, norms
from tests.models.contexts import array, context


class Affine(nn.Module):
    """A simple sublayer, a x + b."""

    a: float
    b: float

    def __call__(self, x_BLD, ctx):
        return self.a * x_BLD + self.b


F, G, H = Affine(2.0, 1.0), Affine(-0.5, 3.0), Affine(1.5, -2.0)


def n(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)


def f(x):
    return 2.0 * x + 1.0


def g(x):
    return -0.5 * x + 3.0


def h(x):
    return 1.5 * x - 2.0


def pre(x):
    x = x + f(n(x))
    x = x + h(n(x))
    return x + g(n(x))


def post(x):
    x = n(x + f(x))
    x = n(x + h(x))
    return n(x + g(x))


def sandwich(x):
    x = x + n(f(n(x)))
    x = x + n(h(n(x)))
    return x + n(g(n(x)))


def after(x):
    x = x + n(f(x))
    x = x + n(h(x))
    return x + n(g(x))


def parallel(x):
    return x + f(n(x)) + h(n(x)) + g(n(x))


FORMULAS = {
    "pre": (blocks.pre, pre, {"mixer_norm", "cross_norm", "mlp_norm"}),
    "post": (blocks.post, post, {"mixer_norm", "cross_norm", "mlp_norm"}),
    "sandwich": (
        blocks.sandwich,
        sandwich,
        {f"{layer}_{norm}" for layer in ("mixer", "cross", "mlp") for norm in ("norm", "post_norm")},
    ),
    "after": (blocks.after, after, {"mixer_norm", "cross_norm", "mlp_norm"}),
    "parallel": (blocks.parallel, parallel, {"shared_norm"}),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_placement_matches_its_formula(name):
    placement, formula, names = FORMULAS[name]
    block = blocks.Block(mixer=F, cross=H, mlp=G, norm=norms.LayerNorm(), placement=placement)
    x, ctx = array(2, 3, 8), context(np.ones((2, 3)))
    y, variables = block.init_with_output(jax.random.key(0), x, ctx)
    np.testing.assert_allclose(y, formula(x), atol=1e-5)
    assert set(variables["params"]) == names


def test_parallel_sublayers_may_have_separate_norms():
    block = blocks.Block(mixer=F, cross=H, mlp=G, norm=norms.LayerNorm(), placement=blocks.parallel_own_norms)
    x, scales = array(2, 3, 8), {name: array(8, seed=i + 1) for i, name in enumerate(("mixer", "cross", "mlp"))}
    params = {f"{name}_norm": {"scale": scale, "bias": 0 * scale} for name, scale in scales.items()}
    y = block.apply({"params": params}, x, context(np.ones((2, 3))))
    expected = x + f(scales["mixer"] * n(x)) + h(scales["cross"] * n(x)) + g(scales["mlp"] * n(x))
    np.testing.assert_allclose(y, expected, atol=1e-5)


def test_a_block_may_have_only_a_mixer():
    block = blocks.Block(mixer=F, norm=norms.LayerNorm())
    x = array(2, 3, 8)
    y, variables = block.init_with_output(jax.random.key(0), x, context(np.ones((2, 3))))
    np.testing.assert_allclose(y, x + f(n(x)), atol=1e-5)
    assert set(variables["params"]) == {"mixer_norm"}


def test_a_pattern_applies_its_blocks_in_order():
    first, second = blocks.Block(mixer=F, norm=norms.LayerNorm()), blocks.Block(mixer=G, norm=norms.LayerNorm())
    x = array(2, 3, 8)
    y, variables = blocks.Pattern((first, second)).init_with_output(jax.random.key(0), x, context(np.ones((2, 3))))
    after_first = x + f(n(x))
    np.testing.assert_allclose(y, after_first + g(n(after_first)), atol=1e-5)
    assert set(variables["params"]) == {"blocks_0", "blocks_1"}


def test_residual_dropout_applies_in_training_to_sublayer_outputs_only():
    block = blocks.Block(mixer=F, norm=norms.LayerNorm(), dropout=0.5)
    x = array(2, 3, 8)
    plain, params = block.init_with_output(jax.random.key(0), x, context(np.ones((2, 3))))
    np.testing.assert_allclose(plain, x + f(n(x)), atol=1e-5)
    rngs = {"dropout": jax.random.key(1)}
    y = block.apply(params, x, context(np.ones((2, 3)), train=True), rngs=rngs)
    added = np.asarray(y) - x
    nonzero = np.abs(added) > 1e-6
    assert 0.2 < nonzero.mean() < 0.8
    np.testing.assert_allclose(added[nonzero], 2 * f(n(x))[nonzero], atol=1e-4)

"""The feed-forward sublayer against numpy."""

import jax
import numpy as np
import pytest
from flax import linen as nn

from t5x_like.models.mlp import Mlp
from tests.models.contexts import array, context


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_mlp_matches_its_formula(gated, biased):
    x, ctx, names = array(2, 3, 4), context(np.ones((2, 3))), ("gate", "up", "down") if gated else ("up", "down")
    shapes = {"gate": (4, 6), "up": (4, 6), "down": (6, 4)}
    params = {name: {"kernel": array(*shapes[name], seed=i)} for i, name in enumerate(names)}
    if biased:
        for i, name in enumerate(names):
            params[name]["bias"] = array(shapes[name][1], seed=10 + i)

    def layer(name, x):
        return x @ params[name]["kernel"] + params[name].get("bias", 0)

    h = np.maximum(layer("gate", x), 0) * layer("up", x) if gated else np.maximum(layer("up", x), 0)
    y = Mlp(6, nn.relu, gated, biased).apply({"params": params}, x, ctx)
    np.testing.assert_allclose(y, layer("down", h), rtol=1e-5, atol=1e-5)
    fresh = jax.eval_shape(Mlp(6, nn.relu, gated, biased).init, jax.random.key(0), x, ctx)["params"]
    assert jax.tree.map(lambda p: p.shape, nn.unbox(fresh)) == jax.tree.map(lambda p: p.shape, params)


def test_dropout_only_in_training():
    mlp, x = Mlp(64, dropout=0.5), array(1, 3, 4)
    params = nn.unbox(mlp.init(jax.random.key(0), x, context([[1, 1, 1]])))
    plain = Mlp(64).apply(params, x, context([[1, 1, 1]]))
    np.testing.assert_array_equal(mlp.apply(params, x, context([[1, 1, 1]])), plain)
    dropped = mlp.apply(params, x, context([[1, 1, 1]], train=True), rngs={"dropout": jax.random.key(1)})
    assert np.any(np.abs(dropped - plain) > 1e-3)

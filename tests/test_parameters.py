"""Freezing parameters: splitting and merging are inverse, and patterns without effect are refused. Unrolled layers."""

import jax
import numpy as np
import pytest

from t5x_like.models import architectures, attention, blocks, heads, linear, mlp, stack
from t5x_like.parameters import Freeze, map_paths, unroll
from tests import tiny


def params():
    return tiny.decoder().init(jax.random.key(0), tiny.batch())["params"]


@pytest.mark.parametrize("patterns", [(), ("^embed/",), ("^(embed|decoder)/",), ("kernel$", "scale$")])
def test_merge_is_the_inverse_of_split(patterns):
    transform, whole = Freeze(patterns), params()
    trained, frozen = transform.split(whole, jax.random.key(0))
    assert jax.tree.structure(transform.merge(trained, frozen)) == jax.tree.structure(whole)
    for after, before in zip(jax.tree.leaves(transform.merge(trained, frozen)), jax.tree.leaves(whole), strict=True):
        assert after is before
    count = len(jax.tree.leaves(trained)) + len(jax.tree.leaves(frozen))
    assert count == len(jax.tree.leaves(whole))


def test_parameters_whose_path_matches_are_frozen():
    trained, frozen = Freeze(("mixer/(query|key)/",)).split(params(), jax.random.key(0))
    paths = jax.tree.leaves(map_paths(lambda path: path, frozen))
    assert paths and all("mixer/query/" in path or "mixer/key/" in path for path in paths)
    assert not any("mixer/query/" in path for path in jax.tree.leaves(map_paths(lambda path: path, trained)))


@pytest.mark.parametrize(
    "patterns, message",
    [
        (("nothing_here",), "'nothing_here' is found in no parameter's path; paths are like decoder/"),
        ((".*",), r"match all parameters, none is left to train"),
    ],
)
def test_bad_patterns_are_refused(patterns, message):
    with pytest.raises(ValueError, match=message):
        Freeze(patterns).split(params(), jax.random.key(0))


def test_gradients_reach_only_the_trained_parameters():
    transform, whole = Freeze(("^embed/",)), params()
    model, batch = tiny.decoder(), tiny.batch()
    trained, frozen = transform.split(whole, jax.random.key(0))

    def loss(trained, frozen):
        return model.apply({"params": transform.merge(trained, frozen)}, batch).mean()

    alone = jax.grad(loss)(trained, frozen)
    every = jax.grad(lambda p: model.apply({"params": p}, batch).mean())(jax.tree.map(lambda x: x, whole))
    expected, _ = transform.split(jax.tree.map(lambda x: x, every), jax.random.key(0))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-8), alone, expected)


def make_pattern():
    """A decoder whose two repeated layers are a pattern, with a tail."""
    layers = [blocks.Block(attention.SelfAttention(tiny.HEADS, tiny.HEAD_DIM), mlp.Mlp(width)) for width in (32, 48)]
    tower = stack.Stack(blocks.Pattern(layers), repeats=2, tail=layers[0], scan=True)
    return architectures.DecoderOnly(linear.Embed(tiny.VOCAB, tiny.WIDTH), tower, heads.Tied())


@pytest.mark.parametrize(
    "make", [lambda: tiny.decoder(scan=True), lambda: tiny.encoder_decoder(scan=True), make_pattern]
)
def test_unrolled_layers_compute_the_same(make):
    model = make()
    batch = tiny.batch(sides=model.sides)
    params = tiny.init(model, batch)
    unrolled, layers = unroll(model, params)
    assert not unrolled.decoder.scan and "layers" not in layers["decoder"] and "layers" in params["decoder"]
    np.testing.assert_allclose(
        jax.jit(unrolled.apply)({"params": layers}, batch), jax.jit(model.apply)({"params": params}, batch), atol=1e-5
    )
    assert unroll(unrolled, layers) == (unrolled, layers)


def test_shared_layers_stay_scanned():
    model = tiny.decoder(scan=True)
    model = model.clone(decoder=model.decoder.clone(shared=True))
    params = tiny.init(model, tiny.batch())
    assert unroll(model, params)[0] is model

"""Optimizers against optax and slow NumPy; factors by path; state with the axis names of the parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from t5x_like import optimizers
from t5x_like.optimizers.adafactor import factored_dims

SHAPES = {"layer": {"mlp": {"kernel": (6, 8), "bias": (8,)}, "norm": {"scale": (6,)}}, "embed": {"table": (10, 6)}}


def tree(seed, shapes=SHAPES):
    random = np.random.default_rng(seed)
    return jax.tree.map(
        lambda s: jnp.asarray(random.normal(size=s), jnp.float32), shapes, is_leaf=lambda s: isinstance(s, tuple)
    )


def steps(optimizer, params, count=4):
    """Parameters after `count` steps of fixed pseudo-random gradients."""
    state = optimizer.init(params)
    shapes = jax.tree.map(lambda x: x.shape, params)
    for i in range(count):
        updates, state = optimizer.update(tree(100 + i, shapes), state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def assert_close(one, other, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **{"rtol": 1e-6, "atol": 1e-7} | tolerance), one, other)


def only_matrices(params):
    return jax.tree.map(lambda x: x.ndim > 1, params)


@pytest.mark.parametrize(
    "ours, theirs",
    [
        (
            optimizers.adamw(0.1, 0.8, 0.9, 1e-6, 0.3, clip_norm=None),
            optax.adamw(0.1, 0.8, 0.9, 1e-6, weight_decay=0.3, mask=only_matrices),
        ),
        (
            optimizers.lion(0.01, 0.9, 0.95, 0.2, clip_norm=None),
            optax.lion(0.01, 0.9, 0.95, weight_decay=0.2, mask=only_matrices),
        ),
        (optimizers.sgd(0.1, 0.9, True), optax.sgd(0.1, 0.9, nesterov=True)),
        (optimizers.sgd(0.1, 0.0), optax.sgd(0.1)),
        (optimizers.sgd(0.1, 0.9, clip_norm=0.5), optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(0.1, 0.9))),
    ],
)
def test_each_equals_its_optax_counterpart(ours, theirs):
    params = tree(0)
    assert_close(steps(ours, params)[0], steps(theirs, params)[0])


def test_the_schedule_is_followed_and_reported():
    optimizer = optimizers.sgd(lambda step: 0.1 * (step + 1), momentum=0.0)
    params, state = steps(optimizer, tree(0), 3)
    expected = jax.tree.map(
        lambda p, *gs: p - sum(0.1 * (i + 1) * g for i, g in enumerate(gs)), tree(0), *(tree(100 + i) for i in range(3))
    )
    assert_close(params, expected)
    assert float(optimizers.learning_rate_of(state)) == pytest.approx(0.3)


def test_factors_scale_the_rate_and_the_decay_of_matching_paths():
    params = tree(0)
    optimizer = optimizers.sgd(
        0.1, 0.0, weight_decay=0.5, lr_factors=(("mlp/kernel", 3.0), ("mlp", 2.0)), decay_factors=(("table", 0.0),)
    )
    after, _ = steps(optimizer, params, 1)
    g, p = tree(100), params
    expected = {
        "kernel": p["layer"]["mlp"]["kernel"] - 0.3 * (g["layer"]["mlp"]["kernel"] + 0.5 * p["layer"]["mlp"]["kernel"]),
        "bias": p["layer"]["mlp"]["bias"] - 0.2 * (g["layer"]["mlp"]["bias"] + 0.5 * p["layer"]["mlp"]["bias"]),
    }
    assert_close(after["layer"]["mlp"], expected)
    assert_close(after["embed"]["table"], p["embed"]["table"] - 0.1 * g["embed"]["table"])


@pytest.mark.parametrize("options", [dict(lr_factors=(("mpl", 1.0),)), dict(decay_factors=(("mpl", 0.0),))])
def test_an_expression_without_a_match_is_refused_with_examples(options):
    with pytest.raises(ValueError, match="'mpl' is found in no parameter's path.*layer/mlp/bias"):
        optimizers.adamw(0.1, **options).init(tree(0))


def boxed(value, *names):
    return nn.LogicallyPartitioned(value, names)


def test_state_has_the_axis_names_of_its_parameters():
    params = {"kernel": boxed(jnp.ones((256, 512)), "embed", "mlp"), "scale": boxed(jnp.ones(256), "norm")}
    moments = optimizers.adafactor(0.1).init(params)[0].moments
    assert moments["kernel"].row.names == ("embed",) and moments["kernel"].row.value.shape == (256,)
    assert moments["kernel"].column.names == ("mlp",) and moments["kernel"].column.value.shape == (512,)
    assert moments["scale"].full.names == ("norm",)
    adam = optimizers.adamw(0.1).init(params)[0][1]
    assert adam.mu["kernel"].names == ("embed", "mlp")


def slow_adafactor(params, count, threshold, scaled, eps1=1e-30, eps2=1e-3):
    """The paper's algorithms 4 and 5 on one matrix, with loops."""
    p = np.asarray(params, np.float64)
    row, column = np.zeros(p.shape[0]), np.zeros(p.shape[1])
    for t in range(1, count + 1):
        g = np.asarray(tree(100 + t - 1, {"w": p.shape})["w"], np.float64)
        keep = 1 - t**-0.8
        row = keep * row + (1 - keep) * (g**2 + eps1).mean(1)
        column = keep * column + (1 - keep) * (g**2 + eps1).mean(0)
        update = g / np.sqrt(np.outer(row, column) / row.mean())
        update /= max(1.0, np.sqrt((update**2).mean()) / threshold)
        p = p - 0.1 * update * (max(eps2, np.sqrt((p**2).mean())) if scaled else 1.0)
    return p


@pytest.mark.parametrize("scaled", [True, False])
def test_adafactor_equals_the_papers_algorithm(scaled):
    params = tree(0, {"w": (8, 6)})
    optimizer = optimizers.adafactor(0.1, multiply_by_parameter_scale=scaled, min_dim_size_to_factor=4)
    state = optimizer.init({"w": boxed(params["w"], "embed", "mlp")})
    state, after = nn.unbox(state), params
    for i in range(3):
        updates, state = optimizer.update(tree(100 + i, {"w": (8, 6)}), state, after)
        after = optax.apply_updates(after, updates)
    np.testing.assert_allclose(after["w"], slow_adafactor(params["w"], 3, 1.0, scaled), rtol=1e-5)


def test_scanned_layers_are_updated_like_single_layers():
    layers = tree(0, {"w": (3, 8, 6)})["w"]
    gradients = tree(1, {"w": (3, 8, 6)})["w"]
    optimizer = optimizers.adafactor(0.1, min_dim_size_to_factor=4)

    def update(p, g, *names):
        updates, _ = optimizer.update({"w": g}, nn.unbox(optimizer.init({"w": boxed(p, *names)})), {"w": p})
        return updates["w"]

    together = update(layers, gradients, "layers", "embed", "mlp")
    alone = jnp.stack([update(layers[i], gradients[i], "embed", "mlp") for i in range(3)])
    np.testing.assert_allclose(together, alone, rtol=1e-5)


@pytest.mark.parametrize(
    "names, shape, rows, columns",
    [
        (("embed", "heads", "head_dim"), (256, 8, 32), (0,), (1, 2)),
        (("layers", "heads", "head_dim", "embed"), (4, 8, 32, 256), (3,), (1, 2)),
        (("vocab", "embed"), (512, 256), (1,), (0,)),
        (("vocab", "embed"), (64, 256), (), ()),  # too small
        (("position", "embed"), (512, 256), (), ()),  # positions are not factored
        (("expert", "embed", "mlp"), (8, 256, 512), (1,), (2,)),
    ],
)
def test_dims_are_factored_by_their_names(names, shape, rows, columns):
    dims = factored_dims(names, shape, 128)
    assert (dims.rows, dims.columns) == (rows, columns)


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (optimizers.adamw, {"b1": 2.0}, "b1=2.0 is not a decay rate: 0 or more, and below 1"),
        (optimizers.adamw, {"eps": -1e-8}, "eps=-1e-08 is not finite, and 0 or more"),
        (optimizers.adamw, {"weight_decay": -1.0}, "weight_decay=-1.0 is not finite, and 0 or more"),
        (optimizers.lion, {"b2": 1.0}, "b2=1.0 is not a decay rate"),
        (optimizers.lion, {"lr_factors": (("embed", float("nan")),)}, "factor of 'embed'=nan is not finite"),
        (optimizers.sgd, {"momentum": -0.1}, "momentum=-0.1 is not a decay rate"),
        (optimizers.sgd, {"clip_norm": 0.0}, "clip_norm=0.0 is not positive"),
        (optimizers.adafactor, {"decay_rate": 0.0}, "decay_rate=0.0 is not positive"),
    ],
)
def test_numbers_out_of_range_are_refused_by_name(make, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(0.1, **arguments)

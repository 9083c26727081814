"""Every dispatch function against a slow loop over tokens and experts, in values and gradients."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from t5x_like.models import moe, routers
from tests.models.contexts import array, context

B, L, D, F, E = 2, 6, 4, 5, 3
SEGMENTS = np.array([[1, 1, 1, 2, 2, 0], [1] * 6])
DISPATCHES = {"dense": moe.dense, "dropless": moe.dropless, "capacity": moe.Capacity(float(E))}


def params_of(gated):
    names = {"up": (E, D, F), "down": (E, F, D)} | ({"gate": (E, D, F)} if gated else {})
    params = {name: array(*shape, seed=i) for i, (name, shape) in enumerate(names.items())}
    return params | {"router": {"gate": {"kernel": array(D, E, seed=9)}}}


def layer(dispatch, top_k=2, gated=True):
    return moe.Moe(routers.TopK(E, top_k), F, nn.silu, gated, dispatch)


def slow(params, x_BLD, top_k, capacity=B * L):
    """Assigns tokens one by one: first choices before second ones, earlier tokens first, `capacity` places per row and expert."""
    probs_BLE = jax.nn.softmax(x_BLD @ params["router"]["gate"]["kernel"])
    rows, dropped = [], []
    for b in range(B):
        loads, outputs, num_dropped = [0] * E, [jnp.zeros(D) for _ in range(L)], 0
        for choice in range(top_k):
            for i in np.flatnonzero(SEGMENTS[b]):
                order = np.argsort(-np.asarray(jax.lax.stop_gradient(probs_BLE[b, i])))[:top_k]
                e = int(order[choice])
                if loads[e] == capacity:
                    num_dropped += 1
                    continue
                loads[e] += 1
                h = jax.nn.silu(x_BLD[b, i] @ params["gate"][e]) * (x_BLD[b, i] @ params["up"][e])
                outputs[i] += probs_BLE[b, i, e] / jnp.sum(probs_BLE[b, i, order]) * (h @ params["down"][e])
        rows.append(jnp.stack(outputs))
        dropped.append(num_dropped / (top_k * np.count_nonzero(SEGMENTS[b])))
    return jnp.stack(rows), dropped


@pytest.fixture(scope="module")
def expected():
    """Returns the slow loop's output and gradients, for two choices and unlimited capacity."""

    def loss(params, x):
        y, _ = slow(params, x, 2)
        return jnp.sum(jnp.sin(y)), y

    return jax.grad(loss, (0, 1), has_aux=True)(params_of(True), jnp.asarray(array(B, L, D)))


@pytest.mark.parametrize("dispatch", DISPATCHES)
def test_dispatch_without_dropping_equals_the_slow_loop(dispatch, expected):
    def loss(params, x):
        y = layer(DISPATCHES[dispatch]).apply({"params": params}, x, context(SEGMENTS))
        real = jnp.where(SEGMENTS[..., None] > 0, y, 0)
        return jnp.sum(jnp.sin(real)), y

    grads, y = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(params_of(True), array(B, L, D))
    np.testing.assert_allclose(y, expected[1], atol=1e-5)
    for actual, other in zip(jax.tree.leaves(grads), jax.tree.leaves(expected[0]), strict=True):
        np.testing.assert_allclose(actual, other, atol=2e-5)


@pytest.mark.parametrize("factor", [0.5, 0.75, 1.0])
def test_a_small_capacity_drops_what_the_slow_loop_drops(factor):
    x, params = array(B, L, D), params_of(True)
    y, sown = layer(moe.Capacity(factor)).apply({"params": params}, x, context(SEGMENTS), mutable=["metrics"])
    slow_y, dropped = slow(params, jnp.asarray(x), 2, capacity=math.ceil(factor * 2 * L / E))
    assert max(dropped) > 0 or factor == 1.0
    np.testing.assert_allclose(y, slow_y, atol=1e-5)
    np.testing.assert_allclose(sown["metrics"]["dropped"][0], dropped, atol=1e-6)


def test_first_choices_and_earlier_tokens_come_first():
    # All tokens want expert 0 first and expert 1 second; the last one wants expert 1 first.
    experts = jnp.array([[[0, 1], [0, 1], [0, 1], [1, 0]]])
    kept_BLS = moe.assign_capacity(routers.Routing(experts, jnp.ones((1, 4, 2)), 2), capacity=2).sum((-1, -2))
    assert kept_BLS[0].tolist() == [[1, 1], [1, 0], [0, 0], [1, 0]]


@pytest.mark.parametrize("gated", [False, True])
def test_all_dispatches_agree_and_padding_gives_zero(gated):
    x, params = array(B, L, D), {"params": params_of(gated)}
    outputs = [layer(dispatch, 1, gated).apply(params, x, context(SEGMENTS)) for dispatch in DISPATCHES.values()]
    for y in outputs:
        np.testing.assert_allclose(y, outputs[0], atol=1e-5)
        assert np.all(y[0, 5] == 0) and np.any(y[0, 4] != 0)


@pytest.mark.parametrize("dispatch", [*DISPATCHES, "tight"])
def test_padding_has_no_effect(dispatch):
    x, params = array(B, L, D), {"params": params_of(True)}
    other, module = x.copy(), layer((DISPATCHES | {"tight": moe.Capacity(0.5)})[dispatch])
    other[0, 5] = 100.0
    one, two = (module.apply(params, each, context(SEGMENTS)) for each in (x, other))
    np.testing.assert_allclose(one, two, atol=1e-6)


def test_16_bit_inputs_give_16_bit_outputs():
    params = jax.tree.map(lambda p: jnp.asarray(p, jnp.bfloat16), params_of(True))
    x = array(B, L, D)
    exact = layer(moe.dense).apply({"params": params_of(True)}, x, context(SEGMENTS))
    for dispatch in DISPATCHES.values():
        y = layer(dispatch).apply({"params": params}, jnp.asarray(x, jnp.bfloat16), context(SEGMENTS))
        assert y.dtype == jnp.bfloat16
        np.testing.assert_allclose(y.astype(np.float32), exact, atol=0.2)


def test_parameters_are_named_and_scaled_by_their_fan_in():
    module = moe.Moe(routers.TopK(8), 64, gated=True)
    params = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 4, 32)), context([[1] * 4]))["params"]
    assert params["up"].names == params["gate"].names == ("expert", "embed", "mlp")
    assert params["down"].names == ("expert", "mlp", "embed")
    assert params["router"]["gate"]["kernel"].names == ("embed", "router")
    assert np.std(params["up"].value) == pytest.approx(32**-0.5, rel=0.05)
    assert np.std(params["down"].value) == pytest.approx(64**-0.5, rel=0.05)
    assert np.any(params["up"].value[0] != params["up"].value[1])


@pytest.mark.parametrize("length", [1, 6])
def test_nothing_is_dropped_in_decoding(length):
    """Experts with room for one token of a row: a result must not depend on the tokens that are computed with it."""
    x, params = array(B, length, D), {"params": params_of(True)}
    decoding = context(SEGMENTS[:, :length], cache_index_BL=jnp.zeros((B, length), jnp.int32))
    tight, exact = layer(moe.Capacity(tokens=1)), layer(moe.dense)
    y, sown = tight.apply(params, x, decoding, mutable=["metrics"])
    np.testing.assert_allclose(y, exact.apply(params, x, context(SEGMENTS[:, :length])), atol=1e-5)
    assert not sown["metrics"]["dropped"][0].any()
    if length > 1:
        dropped = tight.apply(params, x, context(SEGMENTS[:, :length]))
        assert not np.allclose(y, dropped, atol=1e-2)

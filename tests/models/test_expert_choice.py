"""Expert choice and shared experts against slow loops, and on eight devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from t5x_like import partitioning
from t5x_like.models import mlp, moe, routers
from tests.models.contexts import array, context, random_params

B, L, D, F, E = 2, 6, 4, 5, 4
SEGMENTS = np.array([[1, 1, 1, 2, 2, 0], [1] * 6])
X = jnp.asarray(array(B, L, D))
CHOICE = {
    factor: moe.Moe(routers.ExpertChoice(E, factor), F, nn.silu, True, moe.expert_choice) for factor in (1.0, 2.0)
}


def gated(params, x):
    return (jax.nn.silu(x @ params["gate"]) * (x @ params["up"])) @ params["down"]


def rank_tokens(params):
    """Returns the real tokens of each row and expert [B][E], most likely first."""
    logits = X @ params["router"]["gate"]["kernel"]
    probs = np.asarray(jax.nn.softmax(logits))
    real = [np.flatnonzero(row) for row in SEGMENTS]
    return [[[int(i) for i in real[b][np.argsort(-probs[b, real[b], e])]] for e in range(E)] for b in range(B)]


def slow_choice(params, x, order, capacity):
    """Applies each expert to its most likely tokens of every row; also returns the share of tokens without an expert."""
    probs = jax.nn.softmax(x @ params["router"]["gate"]["kernel"])
    rows, dropped = [], []
    for b in range(B):
        outputs, chosen = [jnp.zeros(D) for _ in range(L)], set()
        for e in range(E):
            expert = {name: params[name][e] for name in ("gate", "up", "down")}
            for i in order[b][e][:capacity]:
                outputs[i] += probs[b, i, e] * gated(expert, x[b, i])
                chosen.add(i)
        rows.append(jnp.stack(outputs))
        dropped.append(1 - len(chosen) / np.count_nonzero(SEGMENTS[b]))
    return jnp.stack(rows), dropped


def value_and_gradients(function, params):
    """Returns the output and sown values, and the gradients of a loss with respect to parameters and input."""

    def loss(params, x):
        y, others = function(params, x)
        return jnp.sum(jnp.sin(y)), (y, others)

    return jax.grad(loss, (0, 1), has_aux=True)(params, X)


def make_apply(layer):
    return lambda params, x: layer.apply({"params": params}, x, context(SEGMENTS), mutable=["metrics"])


def assert_close(ours, others, atol=2e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol), ours, others)


@pytest.mark.parametrize(("factor", "capacity"), [(1.0, 2), (2.0, 3)])
def test_expert_choice_equals_the_slow_loop(factor, capacity):
    params = jax.tree.map(lambda p: 3 * p, random_params(CHOICE[factor], X, context(SEGMENTS)))
    order = rank_tokens(params)
    slow = lambda params, x: slow_choice(params, x, order, capacity)  # noqa: E731
    grads, (y, sown) = jax.jit(lambda params: value_and_gradients(make_apply(CHOICE[factor]), params))(params)
    slow_grads, (slow_y, dropped) = jax.jit(lambda params: value_and_gradients(slow, params))(params)
    assert_close((y, grads), (slow_y, slow_grads))
    np.testing.assert_allclose(sown["metrics"]["dropped"][0], dropped, atol=1e-6)
    assert not np.any(y[0, 5])


@pytest.mark.parametrize("factor", CHOICE)
def test_padding_is_never_chosen(factor):
    params = random_params(CHOICE[factor], X, context(SEGMENTS))
    other = jnp.where(SEGMENTS[..., None] > 0, X, 100.0)
    one, two = (jax.jit(make_apply(CHOICE[factor]))(params, x)[0] for x in (X, other))
    np.testing.assert_allclose(one, two, atol=1e-6)


def test_16_bit_inputs_give_16_bit_outputs():
    always = moe.Moe(routers.TopK(E), F, shared=mlp.Mlp(7), shared_gate=True)
    for layer in (*CHOICE.values(), always):
        params = jax.tree.map(lambda p: jnp.asarray(p, jnp.bfloat16), random_params(layer, X, context(SEGMENTS)))
        y = jax.jit(layer.apply)({"params": params}, X.astype(jnp.bfloat16), context(SEGMENTS))
        wide = jax.jit(layer.apply)({"params": jax.tree.map(jnp.float32, params)}, X, context(SEGMENTS))
        assert y.dtype == jnp.bfloat16
        np.testing.assert_allclose(y.astype(np.float32), wide, atol=0.03 * np.abs(wide).max())


@pytest.mark.parametrize("name", ["dense", "dropless", "capacity", "chosen"])
def test_eight_devices_equal_one(name):
    dispatches = {"dense": moe.dense, "dropless": moe.dropless, "capacity": moe.Capacity(0.75)}
    layer = CHOICE[1.0] if name == "chosen" else moe.Moe(routers.TopK(E), F, nn.silu, True, dispatches[name])
    params = random_params(layer, X, context(SEGMENTS))
    expected = jax.jit(lambda params: value_and_gradients(make_apply(layer), params))(params)
    mesh = partitioning.make_mesh(data=2, expert=4)
    boxed = jax.eval_shape(lambda: layer.init(jax.random.key(0), X, context(SEGMENTS)))["params"]
    sharded = jax.device_put(params, partitioning.shardings(boxed, mesh))
    assert sharded["up"].addressable_shards[0].data.shape == (1, D, F)
    with partitioning.on(mesh):
        ours = jax.jit(lambda params: value_and_gradients(make_apply(layer), params))(sharded)
    assert_close(jax.device_get(ours), expected, 1e-5)


@pytest.mark.parametrize("weighed", [False, True])
def test_a_shared_expert_processes_every_token(weighed):
    always = mlp.Mlp(7, nn.silu, gated=True)
    routed = moe.Moe(routers.TopK(E), F, nn.silu, True, moe.dense)
    dense = routed.copy(shared=always, shared_gate=weighed)
    params = jax.tree.map(lambda p: 3 * p, random_params(dense, X, context(SEGMENTS)))
    assert ("shared_router" in params) == weighed

    @jax.jit
    def outputs(params):
        """Returns the routed experts' output, then values and gradients with the shared one, dense and dropless."""
        bare = {name: part for name, part in params.items() if "shared" not in name}
        layers = dense, dense.copy(dispatch=moe.dropless)
        return make_apply(routed)(bare, X)[0], [value_and_gradients(make_apply(layer), params) for layer in layers]

    routed_y, (one, other) = outputs(params)
    kernels = {name: part["kernel"] for name, part in params["shared"].items()}
    weight = 1 / (1 + np.exp(-X @ params["shared_router"]["kernel"])) if weighed else 1.0
    assert_close(one[1][0], routed_y + weight * gated(kernels, X))
    assert_close(one, other)

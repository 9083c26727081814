"""Heads against numpy; logits are float32 for parameters of any dtype."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from t5x_like.models import heads
from tests.models.contexts import array

B, L, D, V = 2, 3, 16, 40
HEADS = [
    heads.Tied(),
    heads.Tied(use_bias=True),
    heads.Untied(),
    heads.Untied(use_bias=True),
    heads.MaskedLM(),
    heads.Projected(heads.Tied(), D),
    heads.SoftCapped(heads.Tied(), 30.0),
]


@pytest.mark.parametrize("head", HEADS, ids=lambda head: type(head).__name__)
def test_logits_are_float32_in_16_bits(head):
    x, table = array(B, L, D), array(V, D, seed=1)
    params = nn.unbox(head.init(jax.random.key(0), x, table))
    half = jax.tree.map(lambda p: jnp.asarray(p, jnp.bfloat16), (params, x, table))
    logits, exact = head.apply(*half), head.apply(params, x, table)
    assert logits.shape == (B, L, V) and logits.dtype == exact.dtype == jnp.float32
    # The logits are not rounded to bfloat16.
    assert np.any(logits != logits.astype(jnp.bfloat16).astype(jnp.float32))
    np.testing.assert_allclose(logits, exact, atol=0.5)


def test_the_backward_pass_of_the_head_multiplies_in_16_bits():
    x, table, mix = array(B, L, D), array(V, D, seed=1), array(B, L, V, seed=2)

    def loss(x, table):
        return jnp.sum(heads.product(x, table) * mix)

    half = jnp.asarray(x, jnp.bfloat16)
    program = jax.make_jaxpr(jax.grad(loss, (0, 1)))(half, table)
    products = [e for e in program.jaxpr.eqns if e.primitive.name == "dot_general"]
    assert len(products) == 2 and all(v.aval.dtype == jnp.bfloat16 for e in products for v in e.invars)
    got, exact = jax.grad(loss, (0, 1))(half, table), jax.grad(loss, (0, 1))(x, table)
    assert got[0].dtype == jnp.bfloat16 and got[1].dtype == jnp.float32
    for mine, other in zip(got, exact, strict=True):
        assert np.linalg.norm(np.float32(mine) - other) < 0.01 * np.linalg.norm(other)
    np.testing.assert_allclose(exact[1], np.einsum("blv,bld->vd", mix, x), atol=1e-4)
    np.testing.assert_allclose(exact[0], mix @ table, atol=1e-4)


def test_tied_reads_the_embedding_table():
    x, table, bias = array(B, L, D), array(V, D, seed=1), array(V, seed=2)
    np.testing.assert_allclose(heads.Tied().apply({}, x, table), x @ table.T, atol=1e-4)
    biased = heads.Tied(use_bias=True).apply({"params": {"bias": bias}}, x, table)
    np.testing.assert_allclose(biased, x @ table.T + bias, atol=1e-4)
    np.testing.assert_allclose(heads.Tied(scale=None).apply({}, x, table), x @ table.T / 4, atol=1e-4)
    np.testing.assert_allclose(heads.Tied(scale=3.0).apply({}, x, table), x @ table.T * 3, atol=1e-3)


def test_untied_has_its_own_table_scaled_by_the_width():
    x, table = jnp.zeros((1, 1, 64)), jnp.zeros((500, 64))
    box = heads.Untied().init(jax.random.key(0), x, table)["params"]["table"]
    assert box.value.shape == (500, 64) and box.names == ("vocab", "embed")
    assert np.std(box.value) == pytest.approx(64**-0.5, rel=0.03)
    ones, x = {"params": {"table": table + 1}}, array(1, 1, 64)
    np.testing.assert_allclose(heads.Untied().apply(ones, x, table), np.full((1, 1, 500), x.sum()), atol=1e-4)


def test_masked_lm_is_dense_activation_norm_and_tied_product():
    x, table = array(B, L, D), array(V, D, seed=1)
    kernel, bias, out = array(D, D, seed=2), array(D, seed=3), array(V, seed=4)
    scale, shift = array(D, seed=5), array(D, seed=6)
    params = {"transform": {"kernel": kernel, "bias": bias}, "norm": {"scale": scale, "bias": shift}}
    head = heads.MaskedLM(activation=nn.relu)
    logits = head.apply({"params": params | {"output": {"bias": out}}}, x, table)
    h = np.maximum(x @ kernel + bias, 0)
    h = (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + 1e-12) * scale + shift
    np.testing.assert_allclose(logits, h @ table.T + out, rtol=1e-4, atol=1e-3)


def test_untied_may_have_a_bias_per_word():
    x, table, bias = array(B, L, D), array(V, D, seed=1), array(V, seed=2)
    logits = heads.Untied(use_bias=True).apply({"params": {"table": table, "bias": bias}}, x, 0 * table)
    np.testing.assert_allclose(logits, x @ table.T + bias, atol=1e-4)


def test_a_projected_head_reads_a_narrower_table():
    x, table, kernel = array(B, L, D), array(V, 6, seed=1), array(D, 6, seed=2)
    head = heads.Projected(heads.Tied(), 6)
    logits = head.apply({"params": {"projection": {"kernel": kernel}}}, x, table)
    np.testing.assert_allclose(logits, x @ kernel @ table.T, rtol=1e-4, atol=1e-4)


def test_a_soft_cap_bounds_the_logits():
    x, table = array(B, L, D), array(V, D, seed=1)
    logits = heads.SoftCapped(heads.Tied(), 2.0).apply({}, x, table)
    np.testing.assert_allclose(logits, 2 * np.tanh(x @ table.T / 2), atol=1e-4)
    np.testing.assert_array_equal(logits.argmax(-1), (x @ table.T).argmax(-1))


def test_a_detector_is_dense_activation_and_one_logit_per_token():
    x, kernel, bias, out = array(B, L, D), array(D, D, seed=2), array(D, seed=3), array(D, 1, seed=4)
    params = {"transform": {"kernel": kernel, "bias": bias}, "output": {"kernel": out, "bias": np.ones(1)}}
    logits = heads.Detector(activation=nn.relu).apply({"params": params}, x, array(V, 6))
    np.testing.assert_allclose(logits, np.maximum(x @ kernel + bias, 0) @ out + 1, rtol=1e-4, atol=1e-4)
    half = heads.Detector().apply({"params": params}, jnp.asarray(x, jnp.bfloat16), array(V, 6))
    assert half.shape == (B, L, 1) and half.dtype == jnp.float32


def test_a_pooler_reads_only_the_first_token():
    x, kernel, bias = array(B, L, D), array(D, D, seed=2), array(D, seed=3)
    y = heads.Pooler().apply({"params": {"transform": {"kernel": kernel, "bias": bias}}}, x)
    np.testing.assert_allclose(y, np.tanh(x[:, 0] @ kernel + bias), atol=1e-5)


def test_states_returns_the_hidden_states():
    x = array(B, L, D)
    assert heads.states(x, array(V, D)) is x

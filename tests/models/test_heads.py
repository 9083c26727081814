"""Heads against numpy; logits are float32 whatever the parameters are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from models import heads
from tests.models.contexts import array

B, L, D, V = 2, 3, 16, 40
HEADS = [heads.Tied(), heads.Tied(use_bias=True), heads.Untied(), heads.MaskedLM()]


@pytest.mark.parametrize("head", HEADS, ids=lambda head: type(head).__name__)
def test_logits_are_float32_in_16_bits(head):
    x, table = array(B, L, D), array(V, D, seed=1)
    params = nn.unbox(head.init(jax.random.key(0), x, table))
    half = jax.tree.map(lambda p: jnp.asarray(p, jnp.bfloat16), (params, x, table))
    logits, exact = head.apply(*half), head.apply(params, x, table)
    assert logits.shape == (B, L, V) and logits.dtype == exact.dtype == jnp.float32
    # Not rounded to 8 bits on the way out.
    assert np.any(logits != logits.astype(jnp.bfloat16).astype(jnp.float32))
    np.testing.assert_allclose(logits, exact, atol=0.5)


def test_tied_reads_the_embedding_table():
    x, table, bias = array(B, L, D), array(V, D, seed=1), array(V, seed=2)
    np.testing.assert_allclose(heads.Tied().apply({}, x, table), x @ table.T, atol=1e-4)
    biased = heads.Tied(use_bias=True).apply({"params": {"bias": bias}}, x, table)
    np.testing.assert_allclose(biased, x @ table.T + bias, atol=1e-4)
    np.testing.assert_allclose(heads.Tied(scale=None).apply({}, x, table), x @ table.T / 4, atol=1e-4)
    np.testing.assert_allclose(heads.Tied(scale=3.0).apply({}, x, table), x @ table.T * 3, atol=1e-3)


def test_untied_has_a_table_of_its_own_spread_by_the_width():
    x, table = jnp.zeros((1, 1, 64)), jnp.zeros((500, 64))
    box = heads.Untied().init(jax.random.key(0), x, table)["params"]["table"]
    assert box.value.shape == (500, 64) and box.names == ("vocab", "embed")
    assert np.std(box.value) == pytest.approx(64**-0.5, rel=0.03)
    np.testing.assert_allclose(
        heads.Untied().apply({"params": {"table": table + 1}}, array(1, 1, 64), table),
        np.tile(array(1, 1, 64).sum(-1, keepdims=True), 500), atol=1e-4
    )  # fmt: skip


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

"""4-bit weights: the published code book, the bound of the error, the bytes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from t5x_like.models import adapted, nf4
from t5x_like.models.nf4 import Nf4, to_nf4
from t5x_like.quantization.weights import size_in_bytes


def test_the_codes_are_quantiles_of_a_normal_distribution():
    """As bitsandbytes makes them: 8 positive and 7 negative quantiles from the tail 0.9677083, and zero, over the largest."""
    tail = 0.9677083
    positive = stats.norm.ppf(np.linspace(tail, 0.5, 9)[:-1])
    negative = -stats.norm.ppf(np.linspace(tail, 0.5, 8)[:-1])
    codes = np.sort(np.concatenate([positive, [0.0], negative]))
    np.testing.assert_allclose(nf4.CODES, codes / codes.max(), atol=1e-6)


@pytest.mark.parametrize("shape, stacked", [((3, 70, 50), 1), ((64, 64), 0), ((2, 4, 9, 5, 3), 2), ((1, 7), 0)])
def test_the_error_is_bounded_and_each_matrix_is_its_own(shape, stacked):
    x = (
        jax.random.normal(jax.random.key(0), shape)
        * jnp.exp(2 * jax.random.normal(jax.random.key(1), shape[:1]))[(slice(None),) + (None,) * (len(shape) - 1)]
    )
    packed = jax.jit(to_nf4, static_argnums=1)(x, stacked)
    assert packed.shape == shape
    flat = np.asarray(x).reshape(*shape[:stacked], -1)
    error = np.abs(np.asarray(packed.astype(jnp.float32)).reshape(flat.shape) - flat)
    padded = nf4.pad_last(jnp.asarray(flat), 64).reshape(*flat.shape[:-1], -1, 64)
    largest = np.abs(padded).max(-1)
    spread = np.abs(largest - largest.mean(-1, keepdims=True)).max(-1)[..., None] / 254 + 1e-6
    bound = np.repeat(0.1520 * largest + spread, 64, axis=-1)[..., : flat.shape[-1]]
    assert (error <= bound).all()
    if stacked:
        alone = to_nf4(x[1], stacked - 1).astype(jnp.float32)
        np.testing.assert_array_equal(packed.astype(jnp.float32)[1], alone)


def test_zeros_ones_and_codes_are_exact():
    x = jnp.asarray(np.tile(nf4.CODES, 8).reshape(2, 64))  # the largest of each block is 1
    np.testing.assert_allclose(to_nf4(x).astype(jnp.float32), x, atol=1e-7)
    np.testing.assert_array_equal(to_nf4(jnp.zeros((5, 5))).astype(jnp.float32), 0)


def test_a_weight_takes_little_more_than_half_a_byte():
    packed = jax.eval_shape(to_nf4, jax.ShapeDtypeStruct((4096, 4096), jnp.float32))
    assert size_in_bytes(packed) / 4096**2 == pytest.approx(0.5 + 1 / 64 + 4 / 64 / 256, rel=1e-5)


def test_products_and_gradients_are_those_of_the_array_which_is_not_kept_for_the_backward_pass():
    x, w = jax.random.normal(jax.random.key(0), (512, 256)), jax.random.normal(jax.random.key(1), (256, 8, 128))
    packed = to_nf4(w)

    def loss(x, weight):
        return jnp.sum(jnp.sin(adapted.product(x, weight, 1)))

    for ours, theirs in zip(
        *(jax.jit(jax.value_and_grad(loss))(x, y) for y in (packed, packed.astype(jnp.float32))), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    _, saved = jax.vjp(lambda x: adapted.product(x, packed, 1), x)
    assert max(leaf.size for leaf in jax.tree.leaves(saved)) <= packed.codes.size
    assert isinstance(packed, Nf4)

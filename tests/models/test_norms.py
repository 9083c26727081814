"""Norms against numpy; 16-bit inputs are normalised in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_like.models import norms
from tests.models.contexts import array

RMS = [norms.RMSNorm(), norms.RMSNorm(shift=1.0), norms.RMSNorm(dims=2)]
NORMS = [*RMS, norms.LayerNorm(), norms.LayerNorm(use_bias=False)]
SHAPE = 2, 5, 16


def params_of(norm):
    """Returns scales and biases that are not ones and zeros."""
    names = ["scale"] if norm in RMS or not norm.use_bias else ["scale", "bias"]
    shape = SHAPE[-norm.dims :] if norm in RMS else SHAPE[-1:]
    return {name: jnp.asarray(array(*shape, seed=i + 1)) for i, name in enumerate(names)}


def expected(norm, params, x):
    x = x.astype(np.float64)
    if norm in RMS:
        axes = {1: -1, 2: (-2, -1)}[norm.dims]
        return x / np.sqrt(np.mean(x**2, axes, keepdims=True) + norm.epsilon) * (params["scale"] + norm.shift)
    y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + norm.epsilon)
    return y * params["scale"] + params.get("bias", 0.0)


@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_norm_matches_its_formula(norm):
    x, params = 3 * array(*SHAPE) + 1, params_of(norm)
    y = norm.apply({"params": params}, x)
    np.testing.assert_allclose(y, expected(norm, params, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_16_bit_input_is_normalised_in_float32(norm):
    # 300^2 is beyond float16, and the mean of squares of bfloat16 would lose its last 16 bits.
    for dtype in (jnp.bfloat16, jnp.float16):
        x, params = (300 * array(*SHAPE)).astype(dtype), params_of(norm)
        y = norm.apply({"params": params}, jnp.asarray(x))
        assert y.dtype == dtype
        np.testing.assert_array_equal(y, norm.apply({"params": params}, x.astype(np.float32)).astype(dtype))


def test_new_norms_scale_by_one():
    for norm in NORMS:
        scale = norm.init(jax.random.key(0), array(1, 3, 4))["params"]["scale"]
        assert np.all(scale.value + getattr(norm, "shift", 0) == 1)
        assert scale.names == (("heads", "norm") if scale.value.ndim == 2 else ("norm",))

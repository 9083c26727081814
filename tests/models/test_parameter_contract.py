"""The parameter contract: a pytree with `astype` may replace any kernel, for example int8 values that are dequantized in use."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from t5x_like.precision import Precision
from tests import tiny
from tests.models.contexts import random_params


@struct.dataclass
class Int8:
    """A kernel as int8 values times a scale per vector of the last axis; the values come first, in the kernel's shape."""

    values: jax.Array
    scale: jax.Array

    def astype(self, dtype) -> jax.Array:
        return self.values.astype(dtype) * self.scale.astype(dtype)


def is_quantized(x) -> bool:
    return isinstance(x, Int8)


def quantize(kernel) -> Int8:
    scale = np.abs(kernel).max(axis=-1, keepdims=True) / 127
    return Int8(np.round(kernel / scale).astype(np.int8), scale)


def replace_kernels(params, function):
    """Applies `function` to every matrix of attention, MLPs, experts and the head (not embedding tables, routers and norms)."""

    def replace(path, x):
        name = jax.tree_util.keystr(path)
        return x if x.ndim < 2 or any(part in name for part in ("embed", "router", "norm")) else function(x)

    return jax.tree_util.tree_map_with_path(replace, params)


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_int8_kernels_give_the_outputs_of_dequantized_kernels(scan, dtype):
    model, batch = tiny.decoder(experts=True, scan=scan), tiny.batch(rows=2)
    precision = Precision(compute_dtype=dtype)
    params = precision.to_compute_dtype(replace_kernels(random_params(model, batch), quantize))
    kernels = [x for x in jax.tree.leaves(params, is_leaf=is_quantized) if is_quantized(x)]
    assert len(kernels) >= 8 and {x.values.dtype for x in kernels} == {jnp.dtype(jnp.int8)}
    plain = jax.tree.map(lambda x: x.astype(dtype) if is_quantized(x) else x, params, is_leaf=is_quantized)
    apply = jax.jit(model.apply)
    expected = np.asarray(apply({"params": plain}, batch))
    tolerance = 1e-5 if dtype == jnp.float32 else 0.02  # bfloat16: a fused product may be rounded once less
    np.testing.assert_allclose(apply({"params": params}, batch), expected, atol=tolerance * np.abs(expected).max())

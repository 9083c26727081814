"""Contexts and parameters shared by the tests of sublayers."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from t5x_like.models.context import Context, TokenInfo


def token_info(segments_BL, prefix_BL=None) -> TokenInfo:
    """Returns token information with positions that count from 0 in every segment."""
    segments_BL = np.asarray(segments_BL, np.int32)
    positions_BL = np.zeros_like(segments_BL)
    for i in range(1, segments_BL.shape[1]):
        same_B = segments_BL[:, i] == segments_BL[:, i - 1]
        positions_BL[:, i] = np.where(same_B, positions_BL[:, i - 1] + 1, 0)
    prefix_BL = None if prefix_BL is None else jnp.asarray(prefix_BL, jnp.int32)
    return TokenInfo(jnp.asarray(positions_BL), jnp.asarray(segments_BL), prefix_BL)


def context(segments_BL, **options) -> Context:
    """Returns a context in which tokens attend to their own segment."""
    info = token_info(segments_BL)
    return Context(info, info, **options)


def array(*shape, seed=0) -> np.ndarray:
    """Returns normal float32 numbers."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def random_params(module, *arguments, **options):
    """Returns random parameters of a module; NumPy avoids compiling `init`."""
    shapes = nn.unbox(jax.eval_shape(lambda: module.init(jax.random.key(0), *arguments, **options)))["params"]
    random = np.random.default_rng(0)

    def leaf(shape_dtype):
        shape = shape_dtype.shape
        return (random.standard_normal(shape) * 0.2 + (len(shape) == 1)).astype(np.float32)

    return jax.tree.map(leaf, shapes)

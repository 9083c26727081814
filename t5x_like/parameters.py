"""Abstract parameter trees: shapes, dtypes, logical axes and shardings, without computing anything."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import Mesh

from t5x_like import partitioning
from t5x_like.precision import Precision


def abstract(boxed, shardings):
    """The boxed tree as plain shapes, dtypes and shardings."""

    def leaf(x, sharding):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    return jax.tree.map(leaf, nn.unbox(boxed), shardings)


def boxed(model: nn.Module, batch, mesh: Mesh, rules: partitioning.Rules, precision: Precision):
    """Abstract parameters with their logical names, without computing anything."""

    def make(key):
        zeros = {name: jnp.zeros(x.shape, x.dtype) for name, x in batch.items()}
        return precision.to_param_dtype(model.init(key, zeros)["params"])

    with partitioning.on(mesh, rules):
        return jax.eval_shape(make, jax.random.PRNGKey(0))

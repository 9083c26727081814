"""The state of training, made already laid out on the mesh, and the dtypes parameters are kept and used in."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct
from jax.sharding import Mesh

from t5x_like import parameters, partitioning
from t5x_like.precision import Precision


@struct.dataclass
class TrainState:
    """step (int32), params, optimizer state and the key that every step's randomness is folded from."""

    step: jax.Array
    params: Any
    opt_state: Any
    rng: jax.Array


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a state is made and laid out: `boxed` is its abstract tree with logical names, `shardings` what they become."""

    make: Any
    boxed: TrainState
    shardings: TrainState

    @functools.cached_property
    def abstract(self) -> TrainState:
        """Shapes, dtypes and shardings of the state: the target of a restore."""
        return parameters.abstract(self.boxed, self.shardings)

    def create(self, seed: int) -> TrainState:
        """A fresh state; every array is born on its own devices, never whole on one of them."""
        make = jax.jit(lambda key: nn.unbox(self.make(key)), out_shardings=self.shardings)
        return make(jax.random.PRNGKey(seed))


def layout(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    batch: dict[str, jax.ShapeDtypeStruct],
    mesh: Mesh,
    rules: partitioning.Rules = partitioning.RULES,
    precision: Precision = Precision(),
) -> Layout:
    """Works out, without computing anything, the state that `model` and `optimizer` have on `mesh`.

    Raises:
      ValueError: what a module refuses about its own sizes, and what `partitioning.shardings` refuses.
    """

    def make(key):
        init_key, rng = jax.random.split(key)
        zeros = {name: jnp.zeros(x.shape, x.dtype) for name, x in batch.items()}
        params = precision.to_param_dtype(model.init(init_key, zeros)["params"])
        return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), rng)

    with partitioning.on(mesh, rules):
        boxed = jax.eval_shape(make, jax.random.PRNGKey(0))
    return Layout(make, boxed, partitioning.shardings(boxed, mesh, rules))

"""The train state, created directly on the mesh."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from jax.sharding import Mesh

from t5x_like import parameters, partitioning
from t5x_like.parameters import Freeze, Transform
from t5x_like.precision import Precision
from t5x_like.types import Model, Optimizer, Params


class TrainState(struct.PyTreeNode):
    """What a train step updates, and the frozen parameters that it reads.

    Attributes:
      step: steps done, int32.
      params: the trained parameters, in the dtype they are stored in.
      frozen: the parameters that are not trained; {} if all are.
      opt_state: the optimizer's state for `params`.
      rng: the key that the randomness of every step is derived from.
    """

    step: jax.Array
    params: Params
    frozen: Params
    opt_state: Any
    rng: jax.Array

    @property
    def without_frozen(self) -> "TrainState":
        """What a checkpoint holds: all but the frozen parameters."""
        return self.replace(frozen={})


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a train state is created and laid out.

    `boxed` is the abstract state with logical axis names, `shardings` the tree of its shardings.
    """

    make: Callable[[jax.Array], TrainState]
    boxed: TrainState
    shardings: TrainState

    @functools.cached_property
    def abstract(self) -> TrainState:
        """Shapes, dtypes and shardings of the state: the target of a restore."""
        return parameters.abstract(self.boxed, self.shardings)

    def create(self, seed: int) -> TrainState:
        """A fresh state; every array is created on its own devices, never whole on one of them."""
        make = jax.jit(lambda key: nn.unbox(self.make(key)), out_shardings=self.shardings)
        return make(jax.random.PRNGKey(seed))


def layout(
    model: Model,
    optimizer: Optimizer,
    batch: Mapping[str, jax.ShapeDtypeStruct],
    mesh: Mesh,
    rules: partitioning.Rules = partitioning.RULES,
    precision: Precision = Precision(),
    transform: Transform = Freeze(),
) -> Layout:
    """The layout of the state that `model` and `optimizer` have on `mesh`; nothing is computed.

    Raises:
      ValueError: sizes that a module refuses, patterns that match no parameter, and what `partitioning.shardings` refuses.
    """

    def make(key: jax.Array) -> TrainState:
        init_key, rng = jax.random.split(key)
        zeros = {name: jnp.zeros(x.shape, x.dtype) for name, x in batch.items()}
        every = precision.to_param_dtype(model.init(init_key, zeros)["params"])
        params, frozen = transform.split(every, jax.random.fold_in(init_key, 1))
        return TrainState(jnp.zeros((), jnp.int32), params, frozen, optimizer.init(params), rng)

    key = jax.eval_shape(jax.random.PRNGKey, 0)  # outside of the mesh, whose devices may be a description only
    with partitioning.on(mesh, rules):
        boxed = jax.eval_shape(make, key)
    return Layout(make, boxed, partitioning.shardings(boxed, mesh, rules))

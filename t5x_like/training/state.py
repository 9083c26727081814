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

    Attributes:
      make: key -> a fresh state, boxed.
      boxed: the abstract state with logical axis names.
      shardings: the tree of its shardings.
      model: the abstract parameters of the model, boxed: those that `transform` splits into trained and frozen ones.
    """

    make: Callable[[jax.Array], TrainState]
    boxed: TrainState
    shardings: TrainState
    model: Params
    transform: Transform

    @functools.cached_property
    def abstract(self) -> TrainState:
        """Shapes, dtypes and shardings of the state: the target of a restore."""
        return parameters.abstract(self.boxed, self.shardings)

    def create(self, seed: int) -> TrainState:
        """A fresh state; every array is created on its own devices, never whole on one of them."""
        make = jax.jit(lambda key: nn.unbox(self.make(key)), out_shardings=self.shardings)
        return make(jax.random.PRNGKey(seed))

    def parameters(self, state: TrainState) -> Params:
        """The model's parameters in a state, as arrays."""
        return parameters.plain(self.transform.merge(state.params, state.frozen))

    def with_parameters(self, state: TrainState, params: Params) -> TrainState:
        """The state with other parameters of the model; what the transform adds to them is initialized anew."""

        def split(params: Params, key: jax.Array) -> tuple[Params, Params]:
            return nn.unbox(self.transform.split(parameters.box(self.model, params), key))

        out = self.shardings.params, self.shardings.frozen
        trained, frozen = jax.jit(split, out_shardings=out)(params, state.rng)
        return state.replace(params=trained, frozen=frozen)


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

    def initialize(key: jax.Array) -> Params:
        zeros = {name: jnp.zeros(x.shape, x.dtype) for name, x in batch.items()}
        return precision.to_param_dtype(model.init(key, zeros)["params"])

    def make(key: jax.Array) -> TrainState:
        init_key, rng = jax.random.split(key)
        params, frozen = transform.split(initialize(init_key), jax.random.fold_in(init_key, 1))
        return TrainState(jnp.zeros((), jnp.int32), params, frozen, optimizer.init(params), rng)

    key = jax.eval_shape(jax.random.PRNGKey, 0)  # outside of the mesh, whose devices may be a description only
    with partitioning.on(mesh, rules):
        every, boxed = jax.eval_shape(initialize, key), jax.eval_shape(make, key)
    return Layout(make, boxed, partitioning.shardings(boxed, mesh, rules), every, transform)

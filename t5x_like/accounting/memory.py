"""Bytes of memory per device in training, computed from shapes, for devices that need not exist."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.sharding import Mesh

from t5x_like import partitioning
from t5x_like.precision import Precision
from t5x_like.types import Params


@dataclasses.dataclass(frozen=True)
class PlannedDevice:
    """A placeholder in a mesh for a device that does not exist; nothing can run on it."""

    id: int
    platform: str = "planned"
    device_kind: str = "planned"
    process_index: int = 0


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes per device, the same on all of them. Activations are not counted."""

    parameters: int
    computing_copy: int  # of the parameters, in the compute dtype if it differs
    gradients: int
    optimizer: int
    frozen: int = 0  # among the parameters

    @property
    def total(self) -> int:
        """The sum of all parts."""
        return self.parameters + self.computing_copy + self.gradients + self.optimizer


def planned_devices(count: int) -> list[PlannedDevice]:
    """Returns `count` placeholder devices for `partitioning.make_mesh`."""
    return [PlannedDevice(i) for i in range(count)]


def per_device(
    boxed_params: Params,
    mesh: Mesh,
    optimizer: optax.GradientTransformation | None = None,
    rules: partitioning.Rules = partitioning.RULES,
    precision: Precision = Precision(),
    frozen: Params | None = None,
) -> Memory:
    """Returns the memory of training a model with these abstract parameters.

    `frozen` are further ones that are not trained, in the dtypes that they are stored in.
    Without an optimizer, AdamW with two float32 moments is assumed.

    Raises:
      ValueError: the mesh axes do not divide a dimension; names the parameter.
    """
    stored = jax.eval_shape(precision.to_param_dtype, boxed_params)
    fixed = {} if frozen is None else frozen
    used = jax.eval_shape(precision.to_compute_dtype, (stored, fixed))
    moments = jax.eval_shape(
        lambda params: make_two_moments(params) if optimizer is None else optimizer.init(params), stored
    )
    trained_bytes, copy_bytes = local_bytes(stored, mesh, rules), local_bytes(used, mesh, rules)
    pairs = zip(jax.tree.leaves((stored, fixed)), jax.tree.leaves(used), strict=True)
    copied = sum(size for size, (a, b) in zip(copy_bytes, pairs, strict=True) if a.dtype != b.dtype)
    trained_sum, fixed_sum = sum(trained_bytes), sum(local_bytes(fixed, mesh, rules))
    return Memory(trained_sum + fixed_sum, copied, trained_sum, sum(local_bytes(moments, mesh, rules)), fixed_sum)


def local_bytes(boxed: Params, mesh: Mesh, rules: partitioning.Rules) -> list[int]:
    """Returns the bytes of every leaf on one device."""
    leaves = jax.tree.leaves(nn.unbox(boxed))
    shardings = jax.tree.leaves(partitioning.shardings(boxed, mesh, rules))
    pairs = zip(leaves, shardings, strict=True)
    return [math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf, sharding in pairs]


def make_two_moments(params: Params) -> Params:
    """Returns AdamW's state without its counter."""
    return [jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), params)] * 2

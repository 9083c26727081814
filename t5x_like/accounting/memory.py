"""Bytes that training keeps on every device, worked out from shapes: planned for devices that need not exist."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.sharding import Mesh

from t5x_like import partitioning
from t5x_like.precision import Precision


@dataclasses.dataclass(frozen=True)
class PlannedDevice:
    """Stands in a mesh for a device that is not here; nothing can run on it."""

    id: int
    platform: str = "planned"
    device_kind: str = "planned"
    process_index: int = 0


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on every device, all of them alike. Activations are not among them."""

    parameters: int
    computing_copy: int  # of the parameters, in the dtype to compute in where that is another
    gradients: int
    optimizer: int

    @property
    def total(self) -> int:
        return self.parameters + self.computing_copy + self.gradients + self.optimizer


def planned_devices(count: int) -> list[PlannedDevice]:
    """`count` devices for `partitioning.make_mesh`."""
    return [PlannedDevice(i) for i in range(count)]


def per_device(
    boxed_params,
    mesh: Mesh,
    optimizer: optax.GradientTransformation | None = None,
    rules: partitioning.Rules = partitioning.RULES,
    precision: Precision = Precision(),
) -> Memory:
    """Memory of training a model whose abstract parameters these are; no optimizer is AdamW with two float32 moments.

    Raises:
      ValueError: a dimension that its mesh axes do not divide, by the parameter's name.
    """
    stored = jax.eval_shape(precision.to_param_dtype, boxed_params)
    used = jax.eval_shape(precision.to_compute_dtype, stored)
    moments = jax.eval_shape(
        lambda params: two_moments(params) if optimizer is None else optimizer.init(params), stored
    )
    kept, copies = local_bytes(stored, mesh, rules), local_bytes(used, mesh, rules)
    recast = [a.dtype != b.dtype for a, b in zip(jax.tree.leaves(stored), jax.tree.leaves(used), strict=True)]
    copied = sum(size for size, other in zip(copies, recast, strict=True) if other)
    return Memory(sum(kept), copied, sum(kept), sum(local_bytes(moments, mesh, rules)))


def local_bytes(boxed, mesh: Mesh, rules: partitioning.Rules) -> list[int]:
    """Bytes of every leaf on one device."""
    leaves = jax.tree.leaves(nn.unbox(boxed))
    shardings = jax.tree.leaves(partitioning.shardings(boxed, mesh, rules))
    pairs = zip(leaves, shardings, strict=True)
    return [math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf, sharding in pairs]


def two_moments(params):
    """AdamW's state, but for its counter."""
    return [jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), params)] * 2

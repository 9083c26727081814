"""A jitted function of batches of rows, sharded over a mesh."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from t5x_like import partitioning
from t5x_like.accounting import runtime_memory
from t5x_like.prompt_batches import round_up
from t5x_like.types import Params


@dataclasses.dataclass(frozen=True)
class ShardedFunction:
    """Jits `function(params, batch)` and applies it to rows on the host; every host gets the results of all rows.

    Rows are sharded over the mesh in batches of `size`: `batch_size` rounded up to a multiple of the batch shards.
    """

    function: Callable[[Params, dict[str, Any]], Any]
    batch_size: int
    mesh: Mesh
    rules: partitioning.Rules = partitioning.RULES
    jitted: Any = dataclasses.field(init=False, repr=False, compare=False)
    products: dict[tuple, int] = dataclasses.field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        replicated = NamedSharding(self.mesh, PartitionSpec())
        object.__setattr__(self, "jitted", jax.jit(self.function, out_shardings=replicated))

    @property
    def size(self) -> int:
        """Rows per batch."""
        return round_up(self.batch_size, partitioning.batch_devices(self.mesh, self.rules))

    def check(self, params: Params, batch: dict[str, np.ndarray]) -> None:
        """Traces the function without compiling it, and so raises what it raises."""
        with partitioning.on(self.mesh, self.rules):
            jax.eval_shape(self.function, params, batch)

    def largest_product(self, params: Params, batch: dict[str, jax.Array]) -> int:
        """Bytes of the largest product of the traced function, found once for every shape of `batch`."""
        shapes = tuple((name, x.shape) for name, x in batch.items())
        if shapes not in self.products:
            self.products[shapes] = runtime_memory.largest_product(self.jitted.trace(params, batch).jaxpr.jaxpr)
        return self.products[shapes]

    def __call__(self, params: Params, batch: dict[str, np.ndarray]) -> Any:
        """Results for up to `size` rows; a smaller batch is padded with copies of its first row.

        Raises:
          MemoryError: on CPU, if attention scores, of which there are two copies, exceed the free memory.
        """
        count, size = len(next(iter(batch.values()))), self.size
        index_B = np.arange(size) * (np.arange(size) < count)
        with partitioning.on(self.mesh, self.rules):
            placed = partitioning.global_batch(
                lambda start, stop: {name: x[index_B[start:stop]] for name, x in batch.items()},
                size,
                partitioning.batch_sharding(self.mesh, self.rules),
            )
            # Several processes must agree, and other devices raise RESOURCE_EXHAUSTED themselves.
            if self.mesh.devices.flat[0].platform == "cpu" and jax.process_count() == 1:
                runtime_memory.check_fits(self.largest_product(params, placed))
            results = jax.device_get(self.jitted(params, placed))
        return jax.tree.map(lambda x: x[:count], results)

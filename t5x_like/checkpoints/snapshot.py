"""Copies of train states, which are written while the next step reuses the buffers of the state itself."""

import itertools
import mmap
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

ALIGNMENT = 64  # bytes; JAX uses a NumPy array that is aligned to this as it is


class Snapshot:
    """Copies a state, again and again; a copy is valid until the next one.

    A CPU copies at once, to pages of its own that are kept. In malloc's memory the copy would lie where the buffers of the next
    step have to go, and the process would grow by those (benchmarks/memory.py). Other devices copy on themselves, without
    blocking; if they lack memory for that, the arrays are moved to host memory, which blocks.
    """

    def __init__(self) -> None:
        self._pages = np.empty(0, np.uint8)

    def copy(self, state: Any) -> Any:
        """A copy of a state."""
        leaves = jax.tree.leaves(state)
        if all(isinstance(x, jax.Array) and on_one_cpu(x) for x in leaves):
            return jax.tree.unflatten(jax.tree.structure(state), self._copy_to_pages(leaves))
        size = sum(x.nbytes for x in leaves) // max(jax.device_count(), 1)
        stats = jax.local_devices()[0].memory_stats() or {}
        free = stats.get("bytes_limit", 2**62) - stats.get("bytes_in_use", 0)
        if free > 1.5 * size or jax.process_count() > 1:
            return jax.tree.map(lambda x: jax.device_put(x, x.sharding, may_alias=False), state)
        return jax.tree.map(np.asarray, state)

    def _copy_to_pages(self, arrays: Sequence[jax.Array]) -> list[jax.Array]:
        starts = [0, *itertools.accumulate(-(-x.nbytes // ALIGNMENT) * ALIGNMENT for x in arrays)]
        if self._pages.size < starts[-1]:
            self._pages = allocate_pages(starts[-1])
        copies = []
        for x, start in zip(arrays, starts, strict=False):
            copy = self._pages[start : start + x.nbytes].view(x.dtype).reshape(x.shape)
            np.copyto(copy, np.asarray(x))
            copies.append(jax.device_put(copy, x.sharding, may_alias=True))
        return copies


def on_one_cpu(x: jax.Array) -> bool:
    """Whether an array lies in the memory of this process as a whole."""
    devices: list[Any] = list(x.sharding.device_set)
    return len(devices) == 1 and devices[0].platform == "cpu"


def allocate_pages(size: int) -> np.ndarray:
    """Memory of `size` bytes that is not malloc's, in large pages where the system has them."""
    pages = mmap.mmap(-1, size)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        pages.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(pages, np.uint8)

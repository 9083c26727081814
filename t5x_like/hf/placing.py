"""Stored tensors become parameters on a mesh, a tensor at a time.

Where the only device is the CPU, and for small parameters, pieces (layers, experts) are put together in host memory, which
the array then is. Elsewhere a tensor goes to the devices as it is stored, and its pieces are written there.
"""

import concurrent.futures
import functools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from t5x_like.hf import tensors
from t5x_like.hf.table import Entry
from t5x_like.hf.tensors import Stored

Progress = Callable[[Iterable, int], Iterable]
SMALL = 2**20  # elements
BLOCK, ROWS = 2**16, 16  # elements that are copied at a time (what the cache holds), and whole lines of it
COPIERS = concurrent.futures.ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="copy")  # numpy lets go of the lock


def arrays(
    entries: Mapping[str, Entry],
    stored: Mapping[str, Stored],
    placed: Mapping[str, jax.ShapeDtypeStruct],
    mesh: Mesh,
    progress: Progress,
) -> dict[str, jax.Array]:
    """Every parameter, of the shape, dtype and sharding that `placed` says."""
    made: dict[str, jax.Array] = {}
    host: dict[str, np.ndarray] = {}
    one_cpu = mesh.size == 1 and mesh.devices.flat[0].platform == "cpu"
    # File order: a disk is read from front to back.
    names = sorted(entries, key=lambda name: (str(stored[name].path), stored[name].offset))
    read = read_ahead([stored[name] for name in names], [is_whole(entries[name]) for name in names])
    for name, tensor in zip(progress(names, len(names)), read, strict=True):
        entry = entries[name]
        if one_cpu or all(math.prod(placed[target.path].shape) <= SMALL for target in entry.targets):
            assemble(entry, tensor, placed, host)
        else:
            write_pieces(entry, spread(tensor, mesh), placed, made)
    return made | {path: on_mesh(x, placed[path].sharding) for path, x in host.items()}


def is_whole(entry: Entry) -> bool:
    """Whether a tensor is one parameter, which may then stay in the memory that it was read into."""
    return len(entry.targets) == 1 and not entry.targets[0].index


def read_ahead(wanted: Sequence[Stored], own: Sequence[bool]) -> Iterator[np.ndarray]:
    """The tensors in turn; the next one is read meanwhile if both together are hardly larger than the largest.

    Those with `own` are read into memory of their own, the others into memory that is used again: what is read for the
    first time has to be fetched from the system page by page.
    """
    room = 1.2 * max(map(tensors.size, wanted), default=0)
    passing = max((tensors.size(t) for t, mine in zip(wanted, own, strict=True) if not mine), default=0)
    scratch = [tensors.aligned((passing,), np.uint8) for _ in range(2)]

    def read(i: int) -> np.ndarray:
        return wanted[i].read(None if own[i] else scratch[i % 2])

    with concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="tensors") as thread:
        coming = None
        for i in range(len(wanted)):
            now = read(i) if coming is None else coming.result()
            both = sum(map(tensors.size, wanted[i : i + 2]))
            coming = thread.submit(read, i + 1) if i + 1 < len(wanted) and both <= room else None
            yield now
            del now


def assemble(entry: Entry, tensor: np.ndarray, placed: Mapping[str, jax.ShapeDtypeStruct], host: dict) -> None:
    """Puts what a tensor holds into the numpy arrays of `host`."""
    pieces = entry.op.split(tensor, [target.shape for target in entry.targets])
    for target, piece in zip(entry.targets, pieces, strict=True):
        want = placed[target.path]
        if is_whole(entry) and piece.dtype == want.dtype and piece.flags.c_contiguous:
            host[target.path] = piece
            continue
        if target.path not in host:
            host[target.path] = tensors.aligned(want.shape, want.dtype)
        fill(host[target.path][target.index], piece)


def fill(target: np.ndarray, piece: np.ndarray) -> None:
    """target[...] = piece, several times faster where the piece is transposed or large."""
    if target.dtype == piece.dtype and target.dtype.itemsize == 2:
        target, piece = target.view(np.uint16), piece.view(np.uint16)
    if piece.size < SMALL:
        target[...] = piece
        return
    axis = int(np.argmax(piece.strides))
    target, piece = np.moveaxis(target, axis, 0), np.moveaxis(piece, axis, 0)
    rows = max(1 if axis < piece.ndim - 1 else ROWS, BLOCK // (piece.size // len(piece)))

    def copy(start: int) -> None:
        target[start : start + rows] = piece[start : start + rows]

    list(COPIERS.map(copy, range(0, len(piece), rows)))


def write_pieces(entry: Entry, tensor: jax.Array, placed: Mapping[str, jax.ShapeDtypeStruct], made: dict) -> None:
    """Puts what a tensor holds into `made`; returns when it is there, so that the tensor's memory is free."""
    shapes = tuple(target.shape for target in entry.targets)
    for number, target in enumerate(entry.targets):
        want, path = placed[target.path], target.path
        if not target.index:
            made[path] = taker(entry.op, shapes, number, want.dtype, want.sharding)(tensor)
        else:
            whole = made.get(path)
            whole = zeros(want.shape, want.dtype, want.sharding)() if whole is None else whole
            write = writer(entry.op, shapes, number, want.sharding)
            made[path] = write(whole, tensor, np.array(target.index, np.int32))
        made[path].block_until_ready()


def spread(tensor: np.ndarray, mesh: Mesh) -> jax.Array:
    """A tensor of a file on the mesh, its first dimension split over all devices where they divide it."""
    split = tensor.ndim > 0 and tensor.shape[0] % mesh.size == 0
    sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names) if split else PartitionSpec())
    return on_mesh(tensor, sharding)


def on_mesh(x: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """A numpy array that every process has whole, laid out."""
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])


@functools.cache
def zeros(shape, dtype, sharding) -> Callable:
    """A compiled function that makes zeros on their devices."""
    return jax.jit(lambda: jnp.zeros(shape, dtype), out_shardings=sharding)


@functools.cache
def taker(op, shapes, number: int, dtype, sharding) -> Callable:
    """A compiled `tensor -> array`: one of the arrays of a tensor, laid out."""
    return jax.jit(lambda tensor: op.split(tensor, shapes)[number].astype(dtype), out_shardings=sharding)


@functools.cache
def writer(op, shapes, number: int, sharding) -> Callable:
    """A compiled `(whole, tensor, index) -> whole` that writes one of the arrays of a tensor at an index, in place."""

    def write(whole, tensor, index):
        piece = op.split(tensor, shapes)[number].astype(whole.dtype)
        start = [*index, *([0] * piece.ndim)]
        return jax.lax.dynamic_update_slice(whole, piece[(None,) * len(index)], start)

    return jax.jit(write, donate_argnums=0, out_shardings=sharding)

"""Places stored tensors on a mesh as parameters, a tensor at a time.

On a single CPU device, and for small parameters, the pieces (layers, experts) are assembled in host memory, which becomes the
array without a copy. Otherwise a tensor is transferred as it is stored, and its pieces are written on the devices.
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
from t5x_like.hf.ops import Op, Shape
from t5x_like.hf.table import Entry
from t5x_like.hf.tensors import StoredTensor

Progress = Callable[[Iterable[str], int], Iterable[str]]
MAX_HOST_SIZE = 2**20  # elements of a parameter that is assembled on the host
COPY_SIZE, COPY_ROWS = 2**16, 16  # elements per copy (they fit into the CPU's cache), and rows per cache line
COPY_POOL = concurrent.futures.ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="copy")  # NumPy releases the GIL


def place_tensors(
    entries: Mapping[str, Entry],
    stored: Mapping[str, StoredTensor],
    placed: Mapping[str, jax.ShapeDtypeStruct],
    mesh: Mesh,
    progress: Progress,
    check: Callable[[str, np.ndarray], None] = lambda name, tensor: None,
) -> dict[str, jax.Array]:
    """Returns every parameter by path, with the shape, dtype and sharding of `placed`; `check(name, x)` sees every tensor."""
    placed_arrays: dict[str, jax.Array] = {}
    host: dict[str, np.ndarray] = {}
    one_cpu = mesh.size == 1 and mesh.devices.flat[0].platform == "cpu"
    # File order, for sequential reads.
    names = sorted(entries, key=lambda name: (str(stored[name].path), stored[name].offset))
    read = read_ahead([stored[name] for name in names], [is_whole(entries[name]) for name in names])
    for name, tensor in zip(progress(names, len(names)), read, strict=True):
        entry = entries[name]
        check(name, tensor)
        if one_cpu or all(math.prod(placed[target.path].shape) <= MAX_HOST_SIZE for target in entry.targets):
            assemble(entry, tensor, placed, host)
        else:
            write_pieces(entry, shard_rows(tensor, mesh), placed, placed_arrays)
    return placed_arrays | {path: put_on_mesh(x, placed[path].sharding) for path, x in host.items()}


def is_whole(entry: Entry) -> bool:
    """Whether a tensor is exactly one parameter, which can use the memory that it was read into."""
    return len(entry.targets) == 1 and not entry.targets[0].index


def read_ahead(stored: Sequence[StoredTensor], owned: Sequence[bool]) -> Iterator[np.ndarray]:
    """Yields the tensors in order; reads the next one in a thread if both together are hardly larger than the largest.

    Tensors with `owned` are read into new memory, the others into two buffers that are reused: new memory costs a page fault
    per page.
    """
    room = 1.2 * max(map(tensors.byte_size, stored), default=0)
    largest = max((tensors.byte_size(t) for t, own in zip(stored, owned, strict=True) if not own), default=0)
    scratch = [tensors.allocate((largest,), np.dtype(np.uint8)) for _ in range(2)]

    def read(i: int) -> np.ndarray:
        return stored[i].read(None if owned[i] else scratch[i % 2])

    with concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="tensors") as thread:
        upcoming = None
        for i in range(len(stored)):
            tensor = read(i) if upcoming is None else upcoming.result()
            both = sum(map(tensors.byte_size, stored[i : i + 2]))
            upcoming = thread.submit(read, i + 1) if i + 1 < len(stored) and both <= room else None
            yield tensor
            del tensor


def assemble(
    entry: Entry, tensor: np.ndarray, placed: Mapping[str, jax.ShapeDtypeStruct], host: dict[str, np.ndarray]
) -> None:
    """Copies the pieces of a tensor into the arrays of `host`, by path."""
    pieces = entry.op.split(tensor, [target.shape for target in entry.targets])
    for target, piece in zip(entry.targets, pieces, strict=True):
        spec = placed[target.path]
        if is_whole(entry) and piece.dtype == spec.dtype and piece.flags.c_contiguous:
            host[target.path] = piece
            continue
        if target.path not in host:
            host[target.path] = tensors.allocate(spec.shape, spec.dtype)
        copy_into(host[target.path][target.index], piece)


def copy_into(target: np.ndarray, piece: np.ndarray) -> None:
    """Does target[...] = piece, several times faster if the piece is transposed or large."""
    if target.dtype == piece.dtype and target.dtype.itemsize == 2:
        target, piece = target.view(np.uint16), piece.view(np.uint16)
    if piece.size < MAX_HOST_SIZE:
        target[...] = piece
        return
    axis = int(np.argmax(piece.strides))
    target, piece = np.moveaxis(target, axis, 0), np.moveaxis(piece, axis, 0)
    rows = max(1 if axis < piece.ndim - 1 else COPY_ROWS, COPY_SIZE // (piece.size // len(piece)))

    def copy(start: int) -> None:
        target[start : start + rows] = piece[start : start + rows]

    list(COPY_POOL.map(copy, range(0, len(piece), rows)))


def write_pieces(
    entry: Entry, tensor: jax.Array, placed: Mapping[str, jax.ShapeDtypeStruct], arrays: dict[str, jax.Array]
) -> None:
    """Writes the pieces of a tensor into `arrays`, by path. Returns when they are written, so the tensor's memory is free."""
    shapes = tuple(target.shape for target in entry.targets)
    for number, target in enumerate(entry.targets):
        spec, path = placed[target.path], target.path
        if not target.index:
            arrays[path] = compile_split(entry.op, shapes, number, spec.dtype, spec.sharding)(tensor)
        else:
            whole = arrays.get(path)
            whole = compile_zeros(spec.shape, spec.dtype, spec.sharding)() if whole is None else whole
            write = compile_write(entry.op, shapes, number, spec.sharding)
            arrays[path] = write(whole, tensor, np.array(target.index, np.int32))
        arrays[path].block_until_ready()


def shard_rows(tensor: np.ndarray, mesh: Mesh) -> jax.Array:
    """Puts a tensor of a file on the mesh; its first dimension is split over all devices if they divide it."""
    split = tensor.ndim > 0 and tensor.shape[0] % mesh.size == 0
    sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names) if split else PartitionSpec())
    return put_on_mesh(tensor, sharding)


def put_on_mesh(x: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """Puts a NumPy array, of which every process has a full copy, on the mesh."""
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])


@functools.cache
def compile_zeros(shape: Shape, dtype: np.dtype, sharding: NamedSharding) -> Callable[[], jax.Array]:
    """Returns a compiled function that makes zeros on their devices."""
    return jax.jit(lambda: jnp.zeros(shape, dtype), out_shardings=sharding)


@functools.cache
def compile_split(
    op: Op, shapes: tuple[Shape, ...], number: int, dtype: np.dtype, sharding: NamedSharding
) -> Callable[[jax.Array], jax.Array]:
    """Returns a compiled `tensor -> array` that gives array `number` of a tensor with a sharding."""
    return jax.jit(lambda tensor: op.split(tensor, shapes)[number].astype(dtype), out_shardings=sharding)


@functools.cache
def compile_write(op: Op, shapes: tuple[Shape, ...], number: int, sharding: NamedSharding) -> Callable[..., jax.Array]:
    """Returns a compiled `(whole, tensor, index) -> whole` that writes array `number` of a tensor at an index, in place."""

    def write(whole: jax.Array, tensor: jax.Array, index: np.ndarray) -> jax.Array:
        piece = op.split(tensor, shapes)[number].astype(whole.dtype)
        start = [*index, *([0] * piece.ndim)]
        return jax.lax.dynamic_update_slice(whole, piece[(None,) * len(index)], start)

    return jax.jit(write, donate_argnums=0, out_shardings=sharding)

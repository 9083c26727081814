"""Meshes, and the mesh axis that every logical axis of a parameter or activation is sharded over.

The axis `data` is data parallelism; `fsdp` is ZeRO-3 / FSDP (parameters, optimizer state and batch are split); `tensor` is
Megatron's tensor parallelism; `expert` splits experts and rows of the batch.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from t5x_like.batches import Feature

AXES = ("data", "fsdp", "expert", "tensor")

Rules = Sequence[tuple[str, str | tuple[str, ...] | None]]
RULES: Rules = (
    ("batch", ("data", "fsdp", "expert")),
    ("expert_batch", ("data", "fsdp")),
    ("expert", "expert"),
    ("vocab", "tensor"),
    ("heads", "tensor"),
    ("kv_heads", "tensor"),
    ("mlp", "tensor"),
    ("embed", "fsdp"),
    ("length", None),
    ("capacity", None),
    ("head_dim", None),
    ("router", None),
    ("rank", None),
    ("position", None),
    ("relpos", None),
    ("norm", None),
    ("layers", None),
)
LARGE = 2**20  # bytes; a larger parameter that no axis splits is reported


def make_mesh(
    data: int = -1, fsdp: int = 1, expert: int = 1, tensor: int = 1, devices: Sequence[Any] | None = None
) -> Mesh:
    """A mesh over all devices; one size may be -1, for the devices that the others leave.

    Raises:
      ValueError: the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [data, fsdp, expert, tensor]
    text = ", ".join(f"{axis}={size}" for axis, size in zip(AXES, sizes, strict=True))
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise ValueError(f"make_mesh({text}): sizes must be positive, and at most one may be -1")
    known = math.prod(size for size in sizes if size != -1)
    if -1 in sizes and len(devices) % known == 0:
        sizes[sizes.index(-1)] = len(devices) // known
    if math.prod(sizes) != len(devices):
        raise ValueError(
            f"make_mesh({text}): {known} does not fit {len(devices)} devices; "
            "the sizes must multiply to the number of devices (data=-1 uses the rest)"
        )
    auto = (AxisType.Auto,) * len(AXES)
    return jax.make_mesh(tuple(sizes), AXES, axis_types=auto, devices=devices)


@contextlib.contextmanager
def on(mesh: Mesh, rules: Rules = RULES) -> Iterator[None]:
    """A context in which the sharding constraints of models/ apply to `mesh`."""
    with jax.set_mesh(mesh), nn.logical_axis_rules(rules):
        yield


def spec(axes: Sequence[str | None], rules: Rules = RULES) -> PartitionSpec:
    """The partition of an array with these logical axes; a mesh axis splits the first axis whose rule names it.

    Raises:
      ValueError: an axis no rule names.
    """
    table, used, result = dict(rules), set[str](), []
    for axis in axes:
        if axis is not None and axis not in table:
            raise ValueError(f"no rule for the logical axis {axis!r} of {tuple(axes)}; add one to the rules")
        names = table.get(axis) if axis is not None else None
        names = (names,) if isinstance(names, str) else names or ()
        free = tuple(name for name in names if name not in used)
        used.update(free)
        result.append(free if len(free) > 1 else free[0] if free else None)
    return PartitionSpec(*result)


def is_boxed(x: Any) -> bool:
    """Whether a leaf has logical axis names."""
    return isinstance(x, nn.LogicallyPartitioned)


def shardings(boxed: Any, mesh: Mesh, rules: Rules = RULES) -> Any:
    """A NamedSharding for every leaf of a tree of boxed arrays; unboxed arrays are replicated.

    Raises:
      ValueError: a dimension that its mesh axes do not divide, by the parameter's name.
    """

    def place(path: Any, leaf: Any) -> NamedSharding:
        if not is_boxed(leaf):
            return NamedSharding(mesh, PartitionSpec())
        partition = spec(leaf.names, rules)
        for size, name, axes in zip(leaf.value.shape, leaf.names, partition, strict=True):
            parts = _parts(mesh, axes)
            if size % parts:
                raise ValueError(
                    f"{jax.tree_util.keystr(path)}: dimension {name!r} of size {size} is not a multiple of the "
                    f"{parts} devices on mesh axis {axes!r}; make the axis smaller, change the size, "
                    f"or give a rule ({name!r}, None)"
                )
        return NamedSharding(mesh, partition)

    return jax.tree_util.tree_map_with_path(place, boxed, is_leaf=is_boxed)


def fitting(shape: Sequence[int], axes: Sequence[str | None], mesh: Mesh, rules: Rules = RULES) -> NamedSharding:
    """The sharding of an array with these logical axes; a dimension that its mesh axes do not divide stays whole."""
    parts = zip(shape, spec(axes, rules), strict=True)
    return NamedSharding(mesh, PartitionSpec(*(None if size % _parts(mesh, names) else names for size, names in parts)))


def _parts(mesh: Mesh, axes: str | Sequence[str] | None) -> int:
    names = (axes,) if isinstance(axes, str) else axes or ()
    return math.prod(mesh.shape[name] for name in names)


def batch_sharding(mesh: Mesh, rules: Rules = RULES) -> NamedSharding:
    """The sharding of rows over the mesh axes of the logical axis `batch`."""
    return NamedSharding(mesh, spec(("batch",), rules))


def batch_shardings(features: Mapping[str, Feature], mesh: Mesh, rules: Rules = RULES) -> dict[str, NamedSharding]:
    """The sharding of every array of a batch: rows by the logical axis `batch`, other dimensions by the feature's axes.

    Raises:
      ValueError: a dimension that its mesh axes do not divide.
    """
    shardings = {}
    for name, feature in features.items():
        partition = spec(("batch", *feature.axes), rules)
        for size, axis, axes in zip(feature.shape, feature.axes, partition[1:], strict=False):
            if size % _parts(mesh, axes):
                raise ValueError(
                    f"feature {name!r}: dimension {axis!r} of size {size} is not a multiple of the {_parts(mesh, axes)} devices "
                    f"on mesh axis {axes!r}; change the size, or give a rule ({axis!r}, None)"
                )
        shardings[name] = NamedSharding(mesh, partition)
    return shardings


def batch_devices(mesh: Mesh, rules: Rules = RULES) -> int:
    """The number of parts that the mesh splits the rows of a batch into."""
    return _parts(mesh, spec(("batch",), rules)[0])


def check_batch(batch_size: int, microbatches: int, mesh: Mesh, rules: Rules = RULES) -> None:
    """Checks that devices and microbatches divide the batch.

    Raises:
      ValueError: they do not; the message names the nearest sizes that fit.
    """
    axes, devices = spec(("batch",), rules)[0], batch_devices(mesh, rules)
    unit = devices * microbatches
    if batch_size < 1 or batch_size % unit:
        below, above = batch_size // unit * unit, (batch_size // unit + 1) * unit
        fits = f"{below} or {above}" if below > 0 else f"{above}"
        raise ValueError(
            f"batch_size={batch_size} is not a multiple of {unit} = {devices} devices on mesh axes {axes!r} "
            f"x microbatches={microbatches}; use {fits}"
        )


def global_batch(
    fetch: Callable[[int, int], dict], batch_size: int, sharding: NamedSharding | Mapping[str, NamedSharding]
) -> dict[str, jax.Array]:
    """A batch on its devices; `fetch(start, stop)` returns rows, and is called for those of this process's devices only.

    `sharding` is one for all arrays, or one for each by name (see `batch_shardings`); all split the rows alike.
    """
    first = next(iter(sharding.values())) if isinstance(sharding, Mapping) else sharding
    split = NamedSharding(first.mesh, PartitionSpec(first.spec[0]))
    indices = split.addressable_devices_indices_map((batch_size,)).values()
    bounds = [index[0].indices(batch_size)[:2] for index in indices if index is not None]
    start, stop = min(low for low, _ in bounds), max(high for _, high in bounds)

    def place(name: str, x: np.ndarray) -> jax.Array:
        def piece(index: Any) -> np.ndarray:
            low, high, _ = index[0].indices(batch_size)
            return x[(slice(low - start, high - start), *index[1:])]

        own = sharding[name] if isinstance(sharding, Mapping) else sharding
        return jax.make_array_from_callback((batch_size, *x.shape[1:]), own, piece)

    return {name: place(name, x) for name, x in fetch(start, stop).items()}


def describe(boxed: Any, mesh: Mesh, rules: Rules = RULES) -> str:
    """A table of every parameter (shape, logical axes, partition, MiB per device), and the large ones that are not split."""
    leaves = jax.tree_util.tree_leaves_with_path(boxed, is_leaf=is_boxed)
    lines, total, local, unsplit = [], 0, 0, []
    for path, leaf in leaves:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        partition, shape = spec(leaf.names, rules), leaf.value.shape
        size, parts = math.prod(shape) * leaf.value.dtype.itemsize, math.prod(_parts(mesh, axes) for axes in partition)
        total, local = total + math.prod(shape), local + size // parts
        if parts == 1 and size > LARGE and mesh.size > 1:
            unsplit.append(name)
        axes = ", ".join(leaf.names)
        lines.append(
            f"{name:<60} {leaf.value.dtype!s:<9} {shape!s:<24} ({axes}) {partition} {size / parts / 2**20:.2f} MiB"
        )
    lines += [
        "",
        f"{total:,} parameters, {local / 2**20:.1f} MiB on each of {mesh.size} devices, mesh {dict(mesh.shape)}",
    ]
    if unsplit:
        lines += ["larger than 1 MiB and not split over devices: " + ", ".join(unsplit)]
    return "\n".join(lines) + "\n"

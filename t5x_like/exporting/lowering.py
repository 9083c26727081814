"""Programs as StableHLO, by `jax.export`: for one size of a dim, or for any."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import export

from t5x_like.exporting.programs import BATCH, Program
from t5x_like.exporting.run import SHORTEST

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")

Sizes = Mapping[str, int | None]  # by dim; None for any
Ranges = Mapping[str, tuple[int, int | None]]


@dataclasses.dataclass(frozen=True)
class Lowered:
    """A program in StableHLO, and the smallest and largest size (None: no limit) of each of its symbolic dims."""

    program: Program
    exported: export.Exported
    ranges: Ranges


def lower(program: Program, params: Mapping[str, Any], sizes: Sizes, platforms: Sequence[str]) -> Lowered:
    """Lowers a program for parameters of these shapes and dtypes.

    The arguments of the result are the parameters, a dict whose order is that of its sorted names, and the inputs.
    Nothing is compiled, and no parameter becomes a constant of the program.

    Raises:
      ValueError: a length that the model's position table does not hold, or a model that needs sizes in numbers.
    """
    check_lengths(program, sizes)
    ranges = symbolic_ranges(program, sizes)
    scope = export.SymbolicScope(constraints(ranges))
    inputs = [
        jax.ShapeDtypeStruct(
            export.symbolic_shape(", ".join(str(sizes[dim] or dim) for dim in dims), scope=scope), jnp.int32
        )
        for dims in program.inputs.values()
    ]
    shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in params.items()}
    jitted = jax.jit(program.function, keep_unused=True)  # the order of arguments stays the documented one
    try:
        return Lowered(program, export.export(jitted, platforms=tuple(platforms))(shapes, *inputs), ranges)
    except (TypeError, jax.errors.InconclusiveDimensionOperation) as error:
        if not ranges:
            raise
        raise ValueError(
            f"{program.name} cannot be exported for any batch size and length, because the model computes with their numbers "
            f"({type(error).__name__}); give a length (--length=N), and if that is not enough a batch size (--batch_size=N)"
        ) from error


def symbolic_ranges(program: Program, sizes: Sizes) -> Ranges:
    """The ranges of the dims that have no size."""
    used = {dim for dims in program.inputs.values() for dim in dims}
    return {
        dim: (1 if dim == BATCH else SHORTEST, program.longest.get(dim))
        for dim in sizes
        if dim in used and not sizes[dim]
    }


def constraints(ranges: Ranges) -> list[str]:
    """Ranges as `jax.export` writes them."""
    least = [f"{dim} >= {low}" for dim, (low, _) in ranges.items()]
    return least + [f"{dim} <= {high}" for dim, (_, high) in ranges.items() if high is not None]


def check_lengths(program: Program, sizes: Sizes) -> None:
    """Raises ValueError if a length is longer than the model's position table holds."""
    for dim, most in program.longest.items():
        length = sizes[dim] or SHORTEST
        if length > most:
            raise ValueError(
                f"{program.name}: {dim}={length} is longer than the {most} tokens that the model's position table holds"
                f"{' besides max_new_tokens' * (program.name == 'predict')}; give at most {most}"
            )


def signature(lowered: Lowered) -> dict[str, Any]:
    """What a program computes, its inputs after the parameters, outputs, and ranges of symbolic dims; ready for JSON."""

    def describe(name: str, x: Any) -> dict[str, Any]:
        shape = [size if isinstance(size, int) else str(size) for size in x.shape]
        return {"name": name, "dtype": x.dtype.name, "shape": shape}

    names, exported = list(lowered.program.inputs), lowered.exported
    inputs = exported.in_avals[-len(names) :]
    outputs = jax.tree.unflatten(exported.out_tree, exported.out_avals)
    return {
        "description": lowered.program.description,
        "inputs": [describe(name, x) for name, x in zip(names, inputs, strict=True)],
        "outputs": [describe(name, x) for name, x in outputs.items()],
        "ranges": {dim: list(limits) for dim, limits in lowered.ranges.items()},
    }

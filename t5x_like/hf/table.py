"""Mapping tables: which tensor of a file is which parameter of ours, one table a family, read forwards and backwards.

A rule is `theirs: (ours, op)`. In `theirs`, `{}` is a layer's number and `{e}` an expert's; in `ours`, `{}` is where that
layer's block is ("decoder.{}.mixer" may be decoder.layers.blocks_1.mixer, index 3) and `{position}` where the block's own
position encoding is. A rule stands for nothing where the model does not have its parameters, so a table lists biases,
norms and heads that only some models of a family have.
"""

import dataclasses
import functools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
from flax import linen as nn

from t5x_like.hf import ops
from t5x_like.hf.ops import Op
from t5x_like.models import blocks

Rules = Mapping[str, tuple[str | tuple[str, ...], Op]]


@dataclasses.dataclass(frozen=True)
class Table:
    """The rules of a family, and the tensors that are only copies of others (`aliases`) or no parameters (`ignored`).

    `prefix` is what names begin with in a model with a head, and lack in the bare one; `lacks` is one that was taken off.
    """

    rules: Rules
    aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)
    ignored: str = r"$^"
    prefix: str = ""
    lacks: str = ""


@dataclasses.dataclass(frozen=True)
class Target:
    """A parameter, or with an index (layer, expert) one piece of it."""

    path: str
    index: tuple[int, ...]
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Entry:
    """What one tensor of a file holds."""

    op: Op
    targets: tuple[Target, ...]

    def shape(self) -> tuple[int, ...]:
        """The tensor's shape, from those of our parameters."""
        return shape_of(self.op, tuple(target.shape for target in self.targets))


@functools.cache
def shape_of(op: Op, shapes: tuple[tuple[int, ...], ...]) -> tuple[int, ...]:
    """The shape of the tensor that `op` joins arrays of these shapes into."""
    return jax.eval_shape(op.join, [jax.ShapeDtypeStruct(shape, "float32") for shape in shapes]).shape


def weights(theirs: str, ours: str | Sequence[str], op: Op | None = None, bias: Op = ops.vector) -> Rules:
    """The rules of a Linear layer: weight and, where there is one, bias."""
    ours = (ours,) if isinstance(ours, str) else tuple(ours)
    kernels, biases = (tuple(f"{name}.{part}" for name in ours) for part in ("kernel", "bias"))
    return {f"{theirs}.weight": (kernels, op or ops.linear()), f"{theirs}.bias": (biases, bias)}


def norm(theirs: str, ours: str) -> Rules:
    """The rules of a norm: scale and, where there is one, bias."""
    return {f"{theirs}.weight": (f"{ours}.scale", ops.vector), f"{theirs}.bias": (f"{ours}.bias", ops.vector)}


def places(stack: nn.Module) -> list[tuple[str, int | None]]:
    """For every layer of a stack: where its block's parameters are, and at which index along their axis `layers`."""
    inner = blocks_of(stack.block)
    if stack.shared:
        return [(f"layers{path}", None) for path in inner]
    scanned = [(f"layers{path}", i) for i in range(stack.repeats) for path in inner]
    unrolled = [(f"layer_{i}{path}", None) for i in range(stack.repeats) for path in inner]
    tail = [] if stack.tail is None else [(f"tail{path}", None) for path in blocks_of(stack.tail)]
    return (scanned if stack.scan else unrolled) + tail


def blocks_of(block: nn.Module) -> list[str]:
    """The paths of the blocks in a block, which may be a pattern or have a position encoding of its own."""
    if isinstance(block, blocks.Pattern):
        return [f".blocks_{i}{path}" for i, inner in enumerate(block.blocks) for path in blocks_of(inner)]
    if isinstance(block, blocks.Positioned):
        return [f".block{path}" for path in blocks_of(block.block)]
    return [""]


def expand(table: Table, model: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Entry]:
    """Every tensor of the model's file by name; `shapes` are those of our parameters by dotted path.

    Raises:
      ValueError: parameters for which the table has no rule (a module that the family's file format cannot hold).
    """
    found: dict[str, Entry] = {}
    for theirs, (ours, op) in table.rules.items():
        found |= entries(theirs, (ours,) if isinstance(ours, str) else ours, op, model, shapes)
    filled = {target.path for entry in found.values() for target in entry.targets}
    if left := sorted(set(shapes) - filled):
        raise ValueError(f"no tensor of the file holds {', '.join(left[:8])}; this model is not of that family")
    return found


def entries(theirs: str, ours: Sequence[str], op: Op, model: nn.Module, shapes) -> Iterator[tuple[str, Entry]]:
    """(name, entry) for every layer and expert of one rule."""
    if not any("{" in path for path in ours):
        yield from experts(theirs, ours, (), op, shapes)
        return
    stack = getattr(model, ours[0].partition(".")[0])
    for number, (place, index) in enumerate(places(stack)):
        named = theirs.replace("{}", str(number))
        position = place.removesuffix(".block") + ".position" if place.endswith(".block") else "none"
        paths = [path.replace("{}", place).replace("{position}", position) for path in ours]
        yield from experts(named, paths, () if index is None else (index,), op, shapes)


def experts(theirs: str, paths: Sequence[str], index: tuple[int, ...], op: Op, shapes) -> Iterator[tuple[str, Entry]]:
    """(name, entry) for every expert, if the rule is about experts, of parameters that the model has."""
    if not all(path in shapes for path in paths):
        return
    inner = [shapes[path][len(index) :] for path in paths]
    if "{e}" not in theirs:
        yield theirs, Entry(op, tuple(Target(p, index, s) for p, s in zip(paths, inner, strict=True)))
        return
    for expert in range(inner[0][0]):
        targets = tuple(Target(p, (*index, expert), s[1:]) for p, s in zip(paths, inner, strict=True))
        yield theirs.replace("{e}", str(expert)), Entry(op, targets)


def without_prefix(table: Table, names: Iterable[str]) -> Table:
    """The table for a file of these names: a bare model's lack the prefix."""
    if not table.prefix or any(name.startswith(table.prefix) for name in names):
        return table
    rules = {name.removeprefix(table.prefix): rule for name, rule in table.rules.items()}
    aliases = {
        copy.removeprefix(re.escape(table.prefix)): original.removeprefix(table.prefix)
        for copy, original in table.aliases.items()
    }
    return dataclasses.replace(table, rules=rules, aliases=aliases, prefix="", lacks=table.prefix)


def under_our_names(table: Table, wanted: Iterable[str], stored: Mapping[str, Any]) -> dict[str, Any]:
    """What is stored, by the names that are `wanted`, where some files have others.

    BERT's first files say gamma and beta, bare models may have their prefix, a tied table may have its copy's name alone.
    """

    def ours(name: str) -> str:
        new = re.sub(r"\.beta$", ".bias", re.sub(r"\.gamma$", ".weight", name))
        names = (name, new, name.removeprefix(table.lacks), new.removeprefix(table.lacks))
        return next((x for x in names if x in wanted), name)

    found = {ours(name): tensor for name, tensor in stored.items()}
    for name in [name for name in found if name not in wanted]:
        if (original := original_of(table, name)) in wanted and original not in found:
            found[original] = found.pop(name)
    return found


def original_of(table: Table, name: str) -> str | None:
    """The tensor that `name` is a copy of, or None."""
    found = [original for copy, original in table.aliases.items() if re.fullmatch(copy, name)]
    return found[0] if found else None


def is_ignored(table: Table, name: str) -> bool:
    """Whether a tensor of that name is no parameter (a mask, frequencies)."""
    return re.fullmatch(table.ignored, name) is not None

"""Mapping tables between tensors of a file and parameters: one table per family, for import and export.

A rule is `tensor: (param, op)`: the name of a tensor and the dotted path of a parameter, or several. In `tensor`, `{}` is the
number of a layer and `{e}` that of an expert. In `param`, `{}` is the path of the layer's block ("decoder.{}.mixer" may be
decoder.layers.blocks_1.mixer, index 3) and `{position}` the path of the block's own position encoding. Rules whose parameters
the model does not have are skipped, so a table also lists biases, norms and heads that only some models of a family have.
"""

import dataclasses
import functools
import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
from flax import linen as nn

from t5x_like.hf import ops
from t5x_like.hf.ops import Op
from t5x_like.models import blocks

Rules = dict[str, tuple[str | tuple[str, ...], Op]]


@dataclasses.dataclass(frozen=True)
class Table:
    """The rules of a family.

    Attributes:
      rules: name of a tensor -> (paths of parameters, op).
      aliases: pattern of a name -> name of the tensor that it is a copy of.
      ignored: pattern of names of tensors that are not parameters.
      prefix: of tensor names in a model with a head; bare models lack it.
      copies: name of a further tensor -> name of the tensor that an export repeats there.
      removed: the prefix, after `remove_prefix`.
    """

    rules: Rules
    aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)
    ignored: str = r"$^"
    prefix: str = ""
    copies: Mapping[str, str] = dataclasses.field(default_factory=dict)
    removed: str = ""


@dataclasses.dataclass(frozen=True)
class Target:
    """A parameter or, with an index (layer, expert), one piece of it."""

    path: str
    index: tuple[int, ...]
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Entry:
    """The contents of one tensor of a file."""

    op: Op
    targets: tuple[Target, ...]

    def shape(self) -> tuple[int, ...]:
        """The tensor's shape, computed from the shapes of the parameters."""
        return shape_of(self.op, tuple(target.shape for target in self.targets))


@functools.cache
def shape_of(op: Op, shapes: tuple[tuple[int, ...], ...]) -> tuple[int, ...]:
    """Returns the shape of the tensor that `op` joins from arrays of these shapes."""
    return jax.eval_shape(op.join, [jax.ShapeDtypeStruct(shape, "float32") for shape in shapes]).shape


def linear_rules(tensor: str, param: str | Sequence[str], op: Op | None = None, bias: Op = ops.flatten) -> Rules:
    """Returns the rules of a Linear layer: weight and, if present, bias."""
    param = (param,) if isinstance(param, str) else tuple(param)
    kernels, biases = (tuple(f"{name}.{part}" for name in param) for part in ("kernel", "bias"))
    return {f"{tensor}.weight": (kernels, op or ops.linear()), f"{tensor}.bias": (biases, bias)}


def norm_rules(tensor: str, param: str) -> Rules:
    """Returns the rules of a norm: scale and, if present, bias."""
    return {f"{tensor}.weight": (f"{param}.scale", ops.flatten), f"{tensor}.bias": (f"{param}.bias", ops.flatten)}


def layer_paths(stack: nn.Module) -> list[tuple[str, int | None]]:
    """Returns for every layer of a stack the path of its block and its index along the axis `layers` (None: unstacked)."""
    inner = block_paths(stack.block)
    if stack.shared:
        return [(f"layers{path}", None) for path in inner]
    scanned: list[tuple[str, int | None]] = [(f"layers{path}", i) for i in range(stack.repeats) for path in inner]
    unrolled: list[tuple[str, int | None]] = [
        (f"layer_{i}{path}", None) for i in range(stack.repeats) for path in inner
    ]
    tail: list[tuple[str, int | None]] = (
        [] if stack.tail is None else [(f"tail{path}", None) for path in block_paths(stack.tail)]
    )
    return (scanned if stack.scan else unrolled) + tail


def block_paths(block: nn.Module) -> list[str]:
    """Returns the paths of the blocks in a block, which may be a Pattern or Positioned."""
    if isinstance(block, blocks.Pattern):
        return [f".blocks_{i}{path}" for i, inner in enumerate(block.blocks) for path in block_paths(inner)]
    if isinstance(block, blocks.Positioned):
        return [f".block{path}" for path in block_paths(block.block)]
    return [""]


def expand_table(table: Table, model: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Entry]:
    """Returns every tensor of the model's file by name; `shapes` are the shapes of parameters by dotted path.

    Raises:
      ValueError: the table has no rule for some parameters, because the family cannot hold one of the modules.
    """
    expanded: dict[str, Entry] = {}
    for tensor, (param, op) in table.rules.items():
        expanded |= rule_entries(tensor, (param,) if isinstance(param, str) else param, op, model, shapes)
    covered = {target.path for entry in expanded.values() for target in entry.targets}
    if missing := sorted(set(shapes) - covered):
        raise ValueError(f"no tensor of the file holds {', '.join(missing[:8])}; the model is not of this family")
    return expanded


def rule_entries(
    tensor: str, param: Sequence[str], op: Op, model: nn.Module, shapes: Mapping[str, tuple[int, ...]]
) -> Iterator[tuple[str, Entry]]:
    """Yields (name, entry) for every layer and expert of one rule."""
    if not any("{" in path for path in param):
        yield from expert_entries(tensor, param, (), op, shapes)
        return
    stack = getattr(model, param[0].partition(".")[0])
    for number, (block, index) in enumerate(layer_paths(stack)):
        name = tensor.replace("{}", str(number))
        position = block.removesuffix(".block") + ".position" if block.endswith(".block") else "none"
        paths = [path.replace("{}", block).replace("{position}", position) for path in param]
        yield from expert_entries(name, paths, () if index is None else (index,), op, shapes)


def expert_entries(
    tensor: str, paths: Sequence[str], index: tuple[int, ...], op: Op, shapes: Mapping[str, tuple[int, ...]]
) -> Iterator[tuple[str, Entry]]:
    """Yields (name, entry) of a rule, or of each expert if the rule has `{e}`; nothing if the model lacks the parameters."""
    if not all(path in shapes for path in paths):
        return
    inner = [shapes[path][len(index) :] for path in paths]
    if "{e}" not in tensor:
        yield tensor, Entry(op, tuple(Target(p, index, s) for p, s in zip(paths, inner, strict=True)))
        return
    for expert in range(inner[0][0]):
        targets = tuple(Target(p, (*index, expert), s[1:]) for p, s in zip(paths, inner, strict=True))
        yield tensor.replace("{e}", str(expert)), Entry(op, targets)


def remove_prefix(table: Table, names: Iterable[str]) -> Table:
    """Returns the table for a file with these names: without the prefix if no name has it (a bare model)."""
    if not table.prefix or any(name.startswith(table.prefix) for name in names):
        return table
    rules = {name.removeprefix(table.prefix): rule for name, rule in table.rules.items()}
    aliases = {
        copy.removeprefix(re.escape(table.prefix)): original.removeprefix(table.prefix)
        for copy, original in table.aliases.items()
    }
    return dataclasses.replace(table, rules=rules, aliases=aliases, prefix="", removed=table.prefix)


def rename_tensors(table: Table, expected: Container[str], stored: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the stored tensors with historical names replaced by the `expected` ones.

    Early BERT files have gamma and beta, bare models may have the prefix, and a tied table may only have the name of its copy.
    """

    def rename(name: str) -> str:
        modern = re.sub(r"\.beta$", ".bias", re.sub(r"\.gamma$", ".weight", name))
        names = (name, modern, name.removeprefix(table.removed), modern.removeprefix(table.removed))
        return next((x for x in names if x in expected), name)

    renamed = {rename(name): tensor for name, tensor in stored.items()}
    for name in [name for name in renamed if name not in expected]:
        original = find_original(table, name)
        if original is not None and original in expected and original not in renamed:
            renamed[original] = renamed.pop(name)
    return renamed


def find_original(table: Table, name: str) -> str | None:
    """Returns the name of the tensor that `name` is a copy of, or None."""
    return next((original for copy, original in table.aliases.items() if re.fullmatch(copy, name)), None)


def is_ignored(table: Table, name: str) -> bool:
    """Whether the tensor of this name is not a parameter (a mask, frequencies)."""
    return re.fullmatch(table.ignored, name) is not None

"""The weights of a model that an adapter is added to, chosen by regular expressions that are searched in their paths.

Each is a matrix: a kernel, a table of vectors or of a head, or an expert's weight, with any number of dims. Its logical axes
tell which dims are inputs.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from t5x_like import parameters, partitioning
from t5x_like.parameters import ADDED
from t5x_like.types import Params

STACKED = ("layers", "expert")  # axes that count independent weights


class Target:
    """A weight of the model, boxed with logical axis names, and its dims by role."""

    def __init__(self, path: str, boxed: Any) -> None:
        self.path, self.value = path, boxed.value
        self.names: tuple[str, ...] = tuple(boxed.names)
        self.stacked = next(i for i, name in enumerate((*self.names, None)) if name not in STACKED)
        own = self.names[self.stacked :]
        # A kernel reads the model's width, or all dims but its last one. A table [V, D] gives one row per token.
        self.inputs = 1 if own[0] == "embed" else len(own) - 1

    @property
    def is_table(self) -> bool:
        """Whether it has a vector for each id of the vocabulary."""
        return self.names[-2:] == ("vocab", "embed")

    @property
    def is_expert(self) -> bool:
        """Whether it is the weight of several experts."""
        return "expert" in self.names

    @property
    def input_dims(self) -> tuple[int, ...]:
        """The dims that are read."""
        return tuple(range(self.stacked, self.stacked + self.inputs))

    def part(self, kind: str) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """(shape, names) of the `stacked` dims, the `inputs` or the `outputs`."""
        middle = self.stacked + self.inputs
        dims = {
            "stacked": slice(0, self.stacked),
            "inputs": slice(self.stacked, middle),
            "outputs": slice(middle, None),
        }
        return self.value.shape[dims[kind]], self.names[dims[kind]]

    def size(self, kind: str) -> int:
        """The number of elements of one part, see `part`."""
        return math.prod(self.part(kind)[0])


def find(argument: str, patterns: Sequence[str], params: Params) -> list[Target]:
    """The weights whose path ("decoder/layers/mixer/query/kernel") matches one of `patterns`.

    Raises:
      ValueError: no pattern, or one that matches no weight; the message starts with `argument`.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params, is_leaf=partitioning.is_boxed)
    weights = {path: leaf for key, leaf in leaves if can_adapt(path := parameters.path_name(key), leaf)}
    if not patterns:
        raise ValueError(f"{argument}=() name no weight; give regular expressions such as 'mixer/(query|value)/kernel'")
    for pattern in patterns:
        if not any(re.search(pattern, path) for path in weights):
            raise ValueError(
                f"{argument}: {pattern!r} is found in the path of no weight that an adapter can be added to; they are "
                f"{', '.join(sorted(weights)[:12])}{', ...' if len(weights) > 12 else ''}"
            )
    chosen = [path for path in weights if any(re.search(pattern, path) for pattern in patterns)]
    return [Target(path, weights[path]) for path in chosen]


def can_adapt(path: str, boxed: Any) -> bool:
    """Whether the modules multiply by a parameter as by a matrix, see `models.adapted`."""
    names = boxed.names
    is_kernel = path.endswith("/kernel") or "expert" in names
    return is_kernel or tuple(names[-2:]) == ("vocab", "embed")


def place(tree: Params, path: str, value: Any) -> None:
    """Sets the value at a path of a nested dict, whose missing dicts are created."""
    *above, name = path.split("/")
    for part in above:
        tree = tree.setdefault(part, {})
    tree[name] = value


def get(tree: Params, path: str) -> Any:
    """The value at a path of a nested dict."""
    for part in path.split("/"):
        tree = tree[part]
    return tree


def attach(tree: Params, added: str, make: Callable[[str, Any, Any], Any], prefix: str = "") -> Params:
    """A tree in which each pair of `NAME` and `NAME@added` is replaced by NAME: make(path, value of NAME, value added)."""
    result, suffix = {}, f"{ADDED}{added}"
    for name, value in tree.items():
        path = f"{prefix}/{name}" if prefix else name
        if name.endswith(suffix):
            continue
        if name + suffix in tree:
            value = make(path, value, tree[name + suffix])
        elif isinstance(value, Mapping):
            value = attach(value, added, make, path)
        result[name] = value
    return result


def check_count(argument: str, trained: Params, declared: int | None) -> None:
    """Checks the number of trained parameters against a declared one; None is any.

    Raises:
      ValueError: they differ.
    """
    leaves = jax.tree.leaves(trained)
    count = sum(math.prod(x.shape) for x in leaves)
    if declared is not None and count != declared:
        raise ValueError(
            f"{argument}={declared}, but {count:,} parameters are trained, in {len(leaves)} arrays; correct the expressions, "
            f"or set it to {count}"
        )

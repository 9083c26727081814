"""Virtual tokens of PEFT: a prompt's vectors, and the keys and values of all layers in one array."""

from typing import Any

import jax
import numpy as np
from flax import linen as nn

from t5x_like import checkpoints
from t5x_like.hf import families, table
from t5x_like.models.prompts import Prompt
from t5x_like.peft import targets
from t5x_like.types import Params


def without(model: nn.Module) -> nn.Module:
    """The model without a prompt and virtual tokens."""
    changes: dict[str, Any] = {
        name: value for name, value in (("virtual_tokens", 0), ("prompt", None)) if hasattr(model, name)
    }
    return model.clone(**changes)


def with_prompt(model: Any, count: int) -> Any:
    """The model with place for a prompt."""
    return model.clone(virtual_tokens=count) if model.sides == ("decoder",) else model.clone(prompt=Prompt(count))


def with_prefix(model: Any, count: int) -> Any:
    """The model with virtual tokens."""
    return model.clone(virtual_tokens=count)


def layers(model: Any) -> list[tuple[str, tuple[int, ...]]]:
    """(path of the self-attention, index) of every layer with virtual tokens."""
    side = model.sides[-1]
    found = table.layer_paths(getattr(model, side))
    return [(f"{side}.{block}.mixer", () if index is None else (index,)) for block, index in found]


def split_prefix(model: Any, stored: np.ndarray) -> Params:
    """The keys and values by path, of an array [P, layers * 2 * heads * K] as PEFT stores it.

    Raises:
      ValueError: it does not fit the model.
    """
    shapes = families.parameter_shapes(model)
    places = layers(model)
    heads, depth = shapes[f"{places[0][0]}.prefix_key"][-2:]
    if stored.shape[1] != len(places) * 2 * heads * depth:
        raise ValueError(
            f"prompt_embeddings {stored.shape} do not fit {len(places)} layers with {heads} heads of {depth} dims, "
            f"which have {len(places) * 2 * heads * depth} numbers of a virtual token"
        )
    each = stored.reshape(len(stored), len(places), 2, heads, depth)
    arrays: dict[str, np.ndarray] = {}
    for number, (path, index) in enumerate(places):
        for kind, name in enumerate(("prefix_key", "prefix_value")):
            whole = arrays.setdefault(f"{path}.{name}", np.zeros(shapes[f"{path}.{name}"], stored.dtype))
            whole[index] = each[:, number, kind]
    tree: Params = {}
    for path, x in arrays.items():
        targets.place(tree, path.replace(".", "/"), x)
    return tree


def join_prefix(model: Any, tree: Params) -> np.ndarray:
    """The array of PEFT, from keys and values by path; the inverse of `split_prefix`."""
    named = checkpoints.leaves_by_name(jax.device_get(tree))
    names = ("prefix_key", "prefix_value")
    pairs = [np.stack([named[f"{path}.{name}"][index] for name in names], axis=1) for path, index in layers(model)]
    joined = np.stack(pairs, axis=1)
    return joined.reshape(len(joined), -1)

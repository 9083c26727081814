"""A model's weights by their names in files, and the hash of a base model."""

import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from t5x_like import checkpoints, parameters
from t5x_like.hf import convert, families, table
from t5x_like.hf.family import Family
from t5x_like.hf.table import Entry
from t5x_like.peft.targets import Target, can_adapt
from t5x_like.types import Params

ROOT = "base_model.model."  # PEFT's prefix of all names


class Names:
    """The tensors of a model's file by name, and the weights that adapters can be added to by path ("decoder/.../kernel").

    `model` is one without what tuning added to it.
    """

    def __init__(self, family: Family, model: nn.Module) -> None:
        batch = {name: jnp.zeros(x.shape, x.dtype) for name, x in families.example_batch(model).items()}
        self.boxed = jax.eval_shape(lambda: model.init(jax.random.key(0), batch)["params"])
        shapes = {name: x.shape for name, x in checkpoints.leaves_by_name(nn.unbox(self.boxed)).items()}
        self.family, self.model, self.table = family, model, family.table(model)
        self.entries: Mapping[str, Entry] = table.expand_table(self.table, model, shapes)
        leaves = jax.tree_util.tree_leaves_with_path(self.boxed, is_leaf=parameters.partitioning.is_boxed)
        found = {parameters.path_name(key): leaf for key, leaf in leaves}
        self.targets = {path: Target(path, leaf) for path, leaf in found.items() if can_adapt(path, leaf)}

    def find(self, name: str) -> str | None:
        """The name in the table of a tensor that is called so in a file, or with the prefix of a bare or a full model."""
        own = self.table.prefix or self.table.removed
        candidates = (name, f"{own}{name}", name.removeprefix(own))
        return next((x for x in candidates if x in self.entries), None)

    def original(self, name: str) -> str | None:
        """The name of the tensor that `name` is a copy of, if both are one parameter of the model."""
        own = self.table.prefix or self.table.removed
        found = (table.find_original(self.table, x) for x in (name, f"{own}{name}"))
        return next((x for x in found if x in self.entries), None)

    def stored_tensor(self, name: str, params: Mapping[str, jax.Array]) -> np.ndarray:
        """A tensor as a file holds it, from the parameters by dotted path."""
        return convert.gather_tensor(self.entries[name], params, None).read()

    def hash(self, params: Params) -> str:
        """sha256 of the names and float32 values of all tensors: the same for a model in another dtype or layout."""
        named, digest = checkpoints.leaves_by_name(params), hashlib.sha256()
        for name in sorted(self.entries):
            x = np.ascontiguousarray(self.stored_tensor(name, named).astype(np.float32))
            digest.update(f"{name} {x.shape} ".encode() + hashlib.sha256(x.data).digest())
        return digest.hexdigest()


def slashed(path: str) -> str:
    """A dotted path with slashes."""
    return path.replace(".", "/")


def exactly(path: str) -> str:
    """The expression that matches one path."""
    return f"^{path}$"


def set_leaf(tree: Params, path: str, value: Any) -> None:
    """Replaces the leaf at a path of a nested dict."""
    *above, last = path.split("/")
    for part in above:
        tree = tree[part]
    tree[last] = value

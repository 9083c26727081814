"""Parameters filled from stored tensors: what every tensor holds, checked, and put in its place on a mesh."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from t5x_like import checkpoints, parameters, partitioning
from t5x_like.hf import families, placing, table
from t5x_like.hf.placing import Progress
from t5x_like.hf.table import Entry, Table
from t5x_like.hf.tensors import Stored
from t5x_like.models.stack import Stack
from t5x_like.precision import Precision


def filled(
    family: families.Family,
    model: nn.Module,
    stored: Mapping[str, Stored],
    where: str,
    mesh: Mesh | None = None,
    rules: partitioning.Rules = partitioning.RULES,
    dtype: Any = None,
    scan: bool = True,
    progress: Progress = lambda names, total: names,
) -> tuple[nn.Module, Any]:
    """(model, params) with the stored tensors in their places; everything is checked before the first is read."""
    mesh = partitioning.make_mesh() if mesh is None else mesh
    model = model if scan else unrolled(model)
    boxed = parameters.boxed(model, families.example(model), mesh, rules, Precision())
    shardings = partitioning.shardings(boxed, mesh, rules)
    abstract = parameters.abstract(boxed, shardings)
    entries, copies, stored = matched(family.table(model), model, abstract, stored, where)
    dtypes = {
        target.path: np.dtype(dtype or stored[name].dtype)
        for name, entry in entries.items()
        for target in entry.targets
    }
    placed = {
        name: jax.ShapeDtypeStruct(x.shape, dtypes[name], sharding=x.sharding)
        for name, x in checkpoints.named(abstract).items()
    }
    arrays = placing.arrays(entries, stored, placed, mesh, progress)
    for copy, original in copies.items():
        if not np.array_equal(stored[copy].read(), stored[original].read()):
            raise ValueError(f"{where}: {copy} should be the same as {original} (they are tied), and is not")
    return model, jax.tree.unflatten(jax.tree.structure(abstract), [arrays[name] for name in placed])


def matched(
    rules: Table, model: nn.Module, abstract, stored: Mapping[str, Stored], where: str
) -> tuple[dict[str, Entry], dict[str, str], dict[str, Stored]]:
    """What every stored tensor holds, which are only copies of others, and the tensors by the names that we have for them.

    Raises:
      ValueError: tensors that are missing, left over, or of another shape, by name.
    """
    shapes = {name: x.shape for name, x in checkpoints.named(abstract).items()}
    rules = table.without_prefix(rules, stored)
    entries = table.expand(rules, model, shapes)
    stored = table.under_our_names(rules, entries, stored)
    left = [name for name in stored if name not in entries and not table.is_ignored(rules, name)]
    copies = {name: original for name in left if (original := table.original_of(rules, name)) in stored}
    problems = [f"{name}: missing" for name in entries if name not in stored]
    problems += [f"{name}: {stored[name].shape}, not a tensor of this model" for name in left if name not in copies]
    for name, entry in entries.items():
        if name in stored and stored[name].shape != (wanted := entry.shape()):
            problems.append(f"{name}: shape {stored[name].shape} in the file, {wanted} by the configuration")
        elif name in stored and not jnp.issubdtype(stored[name].dtype, jnp.floating):
            problems.append(f"{name}: stored as {stored[name].dtype}; quantized models are not read")
    if problems:
        shown = "\n  ".join(problems[:20]) + (f"\n  and {len(problems) - 20} more" if len(problems) > 20 else "")
        raise ValueError(f"{where}: the tensors do not fit the configuration:\n  {shown}")
    return entries, copies, stored


def unrolled(model: nn.Module) -> nn.Module:
    """The model with its layers one by one instead of scanned."""
    parts = {field.name: getattr(model, field.name) for field in dataclasses.fields(model)}
    return model.copy(**{name: part.copy(scan=False) for name, part in parts.items() if isinstance(part, Stack)})

"""Fills parameters from stored tensors: matches and checks every tensor, and places it on a mesh."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from t5x_like import checkpoints, parameters, partitioning
from t5x_like.hf import families, placing, table, tensors
from t5x_like.hf.placing import Progress
from t5x_like.hf.table import Entry, Table
from t5x_like.hf.tensors import StoredTensor
from t5x_like.models.stack import Stack
from t5x_like.precision import Precision
from t5x_like.types import Params

MAX_LISTED = 8  # tensors in one message


def fill_parameters(
    family: families.Family,
    model: nn.Module,
    stored: Mapping[str, StoredTensor],
    where: str,
    mesh: Mesh | None = None,
    rules: partitioning.Rules = partitioning.RULES,
    dtype: Any = None,
    scan: bool = True,
    progress: Progress = lambda names, total: names,
    allow_nonfinite: bool = False,
) -> tuple[nn.Module, Any]:
    """Returns (model, params) with the values of the stored tensors. All names and shapes are checked before any data is read.

    `where` names the source in errors; the other arguments are those of `convert.load`.

    Raises:
      ValueError: the tensors do not fit the model, a copy of a tied tensor differs from it, or a value is not finite.
    """
    mesh = partitioning.make_mesh() if mesh is None else mesh
    model = model if scan else unroll_layers(model)
    boxed = parameters.init_abstract(model, families.example_batch(model), mesh, rules, Precision())
    shardings = partitioning.shardings(boxed, mesh, rules)
    abstract = parameters.abstract(boxed, shardings)
    entries, copies, stored = match_tensors(family.table(model), model, abstract, stored, where)
    dtypes = {
        target.path: np.dtype(dtype or stored[name].dtype)
        for name, entry in entries.items()
        for target in entry.targets
    }
    placed = {
        name: jax.ShapeDtypeStruct(x.shape, dtypes[name], sharding=x.sharding)
        for name, x in checkpoints.leaves_by_name(abstract).items()
    }

    def check(name: str, x: np.ndarray) -> None:
        if not allow_nonfinite and (count := tensors.count_nonfinite(x)):
            raise ValueError(
                f"{where}: {name} has {count} values that are NaN or infinite; to import them nevertheless, give "
                "allow_nonfinite=True, or --allow_nonfinite to hf import"
            )

    arrays = placing.place_tensors(entries, stored, placed, mesh, progress, check)
    for copy, original in copies.items():
        if not np.array_equal(stored[copy].read(), stored[original].read()):
            raise ValueError(f"{where}: {copy} differs from {original}, but the configuration ties them")
    return model, jax.tree.unflatten(jax.tree.structure(abstract), [arrays[name] for name in placed])


def match_tensors(
    rules: Table, model: nn.Module, abstract: Params, stored: Mapping[str, StoredTensor], where: str
) -> tuple[dict[str, Entry], dict[str, str], dict[str, StoredTensor]]:
    """Matches stored tensors with parameters.

    Returns ({name: contents}, {name of a copy: name of its original}, {name: tensor}), all by the names of the table.

    Raises:
      ValueError: tensors are missing, unexpected, or of another shape; the message names them.
    """
    shapes = {name: x.shape for name, x in checkpoints.leaves_by_name(abstract).items()}
    rules = table.remove_prefix(rules, stored)
    entries = table.expand_table(rules, model, shapes)
    stored = table.rename_tensors(rules, entries, stored)
    unknown = [name for name in stored if name not in entries and not table.is_ignored(rules, name)]
    copies = {name: original for name in unknown if (original := table.find_original(rules, name)) in stored}
    problems = [f"{name}: missing" for name in entries if name not in stored]
    problems += [f"{name}: {stored[name].shape}, not a tensor of this model" for name in unknown if name not in copies]
    for name, entry in entries.items():
        if name in stored and stored[name].shape != (expected := entry.shape()):
            problems.append(f"{name}: shape {stored[name].shape} in the file, {expected} by the configuration")
        elif name in stored and not jnp.issubdtype(stored[name].dtype, jnp.floating):
            problems.append(f"{name}: stored as {stored[name].dtype}; quantized tensors are not supported")
    if problems:
        more = [f"and {len(problems) - MAX_LISTED} more"] if len(problems) > MAX_LISTED else []
        summary = "; ".join(problems[:MAX_LISTED] + more)
        raise ValueError(f"{where}: the tensors do not fit the configuration: {summary}")
    return entries, copies, stored


def unroll_layers(model: nn.Module) -> nn.Module:
    """Returns the model with unrolled layers instead of scanned ones."""
    parts: dict[str, Any] = {field.name: getattr(model, field.name) for field in dataclasses.fields(model)}
    unrolled: dict[str, Any] = {name: x.copy(scan=False) for name, x in parts.items() if isinstance(x, Stack)}
    return model.copy(**unrolled)

"""Models from and to Hugging Face folders: config.json and safetensors, a tensor at a time, straight onto a mesh."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from t5x_like import checkpoints, partitioning, train_state
from t5x_like.hf import families, fields, placing, table, tensors
from t5x_like.hf.table import Entry, Table
from t5x_like.hf.tensors import Stored

Progress = placing.Progress


def load(
    folder,
    mesh: Mesh | None = None,
    rules: partitioning.Rules = partitioning.RULES,
    dtype: Any = None,
    scan: bool = True,
    ignore: Iterable[str] = (),
    progress: Progress = lambda names, total: names,
) -> tuple[nn.Module, Any]:
    """(model, params) of a folder with config.json and safetensors, or of a LLaMA's .gguf file, laid out on `mesh`.

    `dtype` None keeps what is stored. `scan` False unrolls the layers. `ignore` names fields of config.json that are to be
    passed over. One tensor at a time is in host memory.

    Raises:
      FileNotFoundError: a file is missing. ValueError: what cannot be read or does not fit, by name: the model_type, a
        field, tensors that are missing or left over, or of another shape.
    """
    folder = Path(folder)
    if folder.is_file():
        if tuple(ignore):
            raise ValueError(
                f"ignore={tuple(ignore)} names fields of a config.json, and {folder} is a GGUF file; leave it out"
            )
        from t5x_like.hf import gguf  # stands on this file

        return gguf.load(folder, mesh, rules, dtype, scan, progress)
    config = fields.read(folder)
    stored = tensors.stored(folder)
    family, model = families.model_of(config, str(folder / "config.json"), ignore, stored)
    return filled(family, model, stored, str(folder), mesh, rules, dtype, scan, progress)


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
    boxed = train_state.boxed_params(model, families.example(model), mesh, rules, train_state.Precision())
    shardings = partitioning.shardings(boxed, mesh, rules)
    abstract = train_state.abstract(boxed, shardings)
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
    stacks = {side: getattr(model, side) for side in ("encoder", "decoder") if hasattr(model, side)}
    return model.copy(**{side: stack.copy(scan=False) for side, stack in stacks.items()})


def save(
    model: nn.Module,
    params,
    folder,
    model_type: str | None = None,
    extra: Mapping[str, Any] | None = None,
    dtype: Any = None,
    shard_bytes: int = 5 * 10**9,
    finish: Callable[[Path], None] = lambda folder: None,
    progress: Progress = lambda names, total: names,
) -> None:
    """Writes a model as a Hugging Face folder that other libraries load; the folder appears when it is complete.

    `extra` are fields for config.json, of which those are taken that do not change the mathematics (token ids, say).
    `dtype` None keeps that of params. `finish` may add files (a tokenizer). One tensor at a time is in host memory.

    Raises:
      FileExistsError: the folder is there. ValueError: no family holds the model.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is there already; give a new folder, or remove it")
    family, config = families.config_of(model, model_type)
    config = fields.without_mathematics(extra or {}) | config
    named = checkpoints.named(params)
    entries = table.expand(family.table(model), model, {name: x.shape for name, x in named.items()})
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
    try:
        content = {name: taken(entry, named, dtype) for name, entry in entries.items()}
        config["torch_dtype"] = str(next(iter(content.values())).dtype)
        tensors.write(partial, content, shard_bytes, progress)
        (partial / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        finish(partial)
        partial.chmod(0o755)
        os.replace(partial, folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def taken(entry: Entry, named: Mapping[str, jax.Array], dtype: Any) -> Stored:
    """A tensor for the file, worked out from our parameters when it is written."""
    dtype = np.dtype(dtype or named[entry.targets[0].path].dtype)

    def make() -> np.ndarray:
        pieces = [np.asarray(jax.device_get(named[target.path][target.index])) for target in entry.targets]
        return entry.op.join(pieces).astype(dtype, copy=False)

    return Stored(entry.shape(), dtype, make=make)

"""Import and export of Hugging Face folders (config.json and safetensors), a tensor at a time, directly onto a mesh."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from t5x_like import checkpoints, partitioning
from t5x_like.files import atomic
from t5x_like.hf import families, fields, filling, gguf, placing, table, tensors
from t5x_like.hf.table import Entry
from t5x_like.hf.tensors import StoredTensor
from t5x_like.types import Params, PathLike

Progress = placing.Progress


def load(
    folder: PathLike,
    mesh: Mesh | None = None,
    rules: partitioning.Rules = partitioning.RULES,
    dtype: Any = None,
    scan: bool = True,
    ignore: Iterable[str] = (),
    progress: Progress = lambda names, total: names,
    allow_nonfinite: bool = False,
) -> tuple[nn.Module, Params]:
    """Loads a folder with config.json and safetensors, or a LLaMA's .gguf file. One tensor at a time is in host memory.

    Args:
      folder: the folder or the .gguf file.
      mesh: where the parameters are placed, by `rules`; None is a mesh of all devices.
      rules: logical axis names to mesh axes.
      dtype: of the parameters; None keeps the stored ones.
      scan: whether layers are scanned; False unrolls them.
      ignore: names of fields of config.json to ignore.
      progress: wraps the iteration over tensor names, given their number.
      allow_nonfinite: accept NaN and infinite values.

    Returns:
      (model, params).

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: the model_type, a field or a tensor is not supported, a field is out of range, tensors are missing,
        unexpected or of another shape, or values are not finite; the message names them.
    """
    folder = Path(folder)
    if folder.is_file():
        if tuple(ignore):
            raise ValueError(
                f"ignore={tuple(ignore)} names fields of a config.json, but {folder} is a GGUF file; leave it out"
            )
        return gguf.load(folder, mesh, rules, dtype, scan, progress, allow_nonfinite)
    config = fields.read_config(folder)
    stored = tensors.list_tensors(folder)
    family, model = families.build_model(config, str(folder / "config.json"), ignore, stored)
    return filling.fill_parameters(
        family, model, stored, str(folder), mesh, rules, dtype, scan, progress, allow_nonfinite
    )


def save(
    model: nn.Module,
    params: Params,
    folder: PathLike,
    model_type: str | None = None,
    extra: Mapping[str, Any] | None = None,
    dtype: Any = None,
    shard_bytes: int = 5 * 10**9,
    finish: Callable[[Path], None] = lambda folder: None,
    progress: Progress = lambda names, total: names,
) -> None:
    """Writes a model as a Hugging Face folder that other libraries load. The folder appears when it is complete.

    Args:
      model: the model.
      params: its parameters. One tensor at a time is in host memory.
      folder: must not exist, or be empty.
      model_type: the family; None takes the first that holds the model.
      extra: further fields for config.json; those that may change the mathematics are left out.
      dtype: of the tensors; None keeps that of `params`.
      shard_bytes: the size limit of a safetensors file.
      finish: adds files to the folder (a tokenizer) before it appears.
      progress: wraps the iteration over tensor names, given their number.

    Raises:
      FileExistsError: the folder exists and is not empty.
      ValueError: no family holds the model.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} already exists; give a new folder, or remove it")
    family, config = families.build_config(model, model_type)
    config = fields.metadata_fields(extra or {}) | config
    named = checkpoints.leaves_by_name(params)
    rules = family.table(model)
    entries = table.expand_table(rules, model, {name: x.shape for name, x in named.items()})
    entries |= {copy: entries[original] for copy, original in rules.copies.items()}
    with atomic.new_folder(folder) as partial:
        content = {name: gather_tensor(entry, named, dtype) for name, entry in entries.items()}
        config["torch_dtype"] = str(next(iter(content.values())).dtype)
        tensors.write_tensors(partial, content, shard_bytes, progress)
        (partial / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        finish(partial)


def gather_tensor(entry: Entry, named: Mapping[str, jax.Array], dtype: Any) -> StoredTensor:
    """Returns a tensor for the file, which is computed from the parameters when it is written."""
    dtype = np.dtype(dtype or named[entry.targets[0].path].dtype)

    def make() -> np.ndarray:
        pieces = [np.asarray(jax.device_get(named[target.path][target.index])) for target in entry.targets]
        return entry.op.join(pieces).astype(dtype, copy=False)

    return StoredTensor(entry.shape(), dtype, make=make)

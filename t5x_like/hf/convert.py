"""Models from and to Hugging Face folders: config.json and safetensors, a tensor at a time, straight onto a mesh."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from t5x_like import checkpoints, partitioning
from t5x_like.hf import families, fields, filling, gguf, placing, table, tensors
from t5x_like.hf.table import Entry
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
        return gguf.load(folder, mesh, rules, dtype, scan, progress)
    config = fields.read(folder)
    stored = tensors.stored(folder)
    family, model = families.model_of(config, str(folder / "config.json"), ignore, stored)
    return filling.filled(family, model, stored, str(folder), mesh, rules, dtype, scan, progress)


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

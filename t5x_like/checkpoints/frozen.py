"""Frozen parameters in checkpoints: not saved with every step, but named by their source and its hash.

The source is a checkpoint folder: that of the run that training started from, or RUN_DIR/frozen, written once where no other
checkpoint holds all of them. Its hash is kept in the metadata of every checkpoint, and is checked when parameters are read.
"""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import jax

from t5x_like.checkpoints import folder as files
from t5x_like.checkpoints import verify
from t5x_like.run_dir import RunDir
from t5x_like.types import Params, PathLike


def describe(source: Path, run_dir: PathLike) -> dict[str, str]:
    """The record of a source for the metadata of checkpoints; a folder below `run_dir` is recorded relative to it."""
    source, run = source.absolute(), Path(run_dir).absolute()
    path = source.relative_to(run) if source.is_relative_to(run) else source
    return {"folder": str(path), "sha256": hash_of(source)}


def hash_of(folder: Path) -> str:
    """sha256 of the names and contents of the array files of a checkpoint."""
    digest = hashlib.sha256()
    for name in files.file_sizes(folder):
        with open(folder / name, "rb") as file:
            digest.update(f"{name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def save(run_dir: PathLike, frozen: Params) -> Path:
    """Writes frozen parameters to RUN_DIR/frozen; returns the folder."""
    folder = RunDir(run_dir).frozen.absolute()
    if jax.process_index() == 0:
        shutil.rmtree(folder, ignore_errors=True)
    files.write(folder, files.leaves_by_name({"params": frozen}), {"meta": {}})
    return folder


def source_of(run_dir: PathLike, record: dict[str, str]) -> Path:
    """The folder that a record names, after checking its hash.

    Raises:
      FileNotFoundError: the folder is missing. ValueError: its files have changed.
    """
    folder = Path(run_dir).absolute() / record["folder"]
    if not (folder / files.MANIFEST).exists():
        raise FileNotFoundError(
            f"the frozen parameters of {run_dir} come from the checkpoint {folder}, which is missing; restore it, or "
            f'write its new place into "frozen" in {RunDir(run_dir).checkpoints}/*/{files.MANIFEST}'
        )
    actual = hash_of(folder)
    try:
        verify.check(folder, with_checksums=actual != record["sha256"])  # names the file
    except files.DamagedCheckpointError as error:  # of the source, not of the checkpoint that names it
        raise ValueError(
            f"the frozen parameters of {run_dir} come from the checkpoint {folder}: {error}; restore the original"
        ) from error
    if actual != record["sha256"]:
        raise ValueError(
            f"the frozen parameters of {run_dir} come from the checkpoint {folder}, whose arrays have changed (sha256 "
            f"{record['sha256'][:16]} when training started, {actual[:16]} now); restore the original checkpoint"
        )
    return folder


def restore(run_dir: PathLike, record: dict[str, str], abstract: Params) -> Params:
    """The frozen parameters that a record names, on the shardings and in the dtypes of `abstract`.

    Raises:
      FileNotFoundError, ValueError: see `source_of`; parameters that the source lacks or has in another shape.
    """
    wanted = files.leaves_by_name({"params": abstract})
    arrays = read(locate(source_of(run_dir, record)), wanted, f"frozen parameters of {run_dir}")
    return jax.tree.unflatten(jax.tree.structure(abstract), [arrays[name] for name in wanted])


def locate(folder: Path) -> dict[str, tuple[Path, list]]:
    """{name: (folder, [shape, dtype])} of a checkpoint's parameters, including the frozen ones that its metadata names."""
    manifest = files.manifest(folder)
    record, places = manifest["meta"].get("frozen"), {}
    if record is not None:
        places = locate(source_of(folder.parents[1], record))
    own = {name: (folder, stored) for name, stored in manifest["arrays"].items() if name.startswith("params.")}
    return places | own


def read(places: dict[str, tuple[Path, list]], wanted: dict[str, Any], where: str) -> dict[str, jax.Array]:
    """Arrays by name from the folders that `locate` found.

    Raises:
      ValueError: arrays that are missing or of another shape, by name.
    """
    files.check_same(wanted, {name: stored for name, (_, stored) in places.items() if name in wanted}, where)
    arrays: dict[str, jax.Array] = {}
    for folder in {places[name][0] for name in wanted}:
        arrays |= files.read(folder, {name: x for name, x in wanted.items() if places[name][0] == folder})
    return arrays

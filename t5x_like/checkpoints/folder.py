"""The format of a checkpoint on disk.

    <folder>/arrays/         every array, by name ("params.decoder.norm.scale"), as written by Orbax
            /manifest.json   metadata, names and shapes of the arrays, size and checksums of every file, and the hash of
                             the manifest itself; written last

A folder without a manifest is not a checkpoint. Files that differ from the manifest are damaged.
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from t5x_like.checkpoints import checksums
from t5x_like.types import PathLike

MANIFEST, ARRAYS = "manifest.json", "arrays"
IN_FLIGHT = 2**27  # bytes
# Bytes. Devices with the same array share its writing when a slice has as many: slicing compiles a program for each shape.
MIN_SLICE = 2**20


class DamagedCheckpointError(ValueError):
    """A checkpoint's files are not as they were written; the message names the file."""


def leaves_by_name(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their path, joined with dots."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def orbax(arrays: Mapping[str, Any]) -> ocp.Checkpointer:
    """An Orbax checkpointer for these arrays (or their shapes), whose processes synchronize without the devices.

    Collectives of a saving thread would interleave with those of the training steps. At most IN_FLIGHT bytes, or the largest
    array, are encoded or decoded at a time.
    """
    everyone = ocp.options.MultiprocessingOptions(active_processes=set(range(jax.process_count())))
    largest = max((math.prod(x.shape) for x in arrays.values()), default=0) * 8  # the stored dtype may be wider
    gigabytes = max(IN_FLIGHT, largest + 1) / 1e9
    types = ocp.type_handlers.create_type_handler_registry(
        (np.ndarray, ocp.type_handlers.NumpyHandler()),
        (jax.Array, ocp.type_handlers.ArrayHandler(min_slice_bytes_for_replica_parallel=MIN_SLICE)),
    )
    handler = ocp.PyTreeCheckpointHandler(
        save_concurrent_gb=gigabytes,
        restore_concurrent_gb=gigabytes,
        multiprocessing_options=everyone,
        type_handler_registry=types,
    )
    return ocp.Checkpointer(handler, multiprocessing_options=everyone)


def write(
    folder: Path,
    arrays: Mapping[str, Any],
    facts: Mapping[str, Any],
    with_checksums: bool = True,
) -> None:
    """Writes arrays by name, then the manifest, which holds `facts` besides its own fields. All processes call this."""
    orbax(arrays).save(folder / ARRAYS, args=ocp.args.PyTreeSave(dict(arrays)))
    sizes = file_sizes(folder)
    sums = checksums.compute_together(folder, sizes) if with_checksums else {}
    if jax.process_index() == 0:
        shapes = {name: [list(x.shape), str(x.dtype)] for name, x in arrays.items()}
        content = dict(facts) | {"arrays": shapes, "files": sizes, "checksums": sums}
        temporary = folder / f"{MANIFEST}.tmp"
        temporary.write_text(json.dumps(content | {"sha256": hash_of_content(content)}))
        os.replace(temporary, folder / MANIFEST)


def hash_of_content(content: Mapping[str, Any]) -> str:
    """The hash of a manifest's content, without the hash itself."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a complete checkpoint.

    Raises:
      DamagedCheckpointError: it cannot be read, or has changed.
    """
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text())
        # Manifests of earlier versions have no hash.
        good = "sha256" not in content or content.pop("sha256") == hash_of_content(content)
        complete = {"meta", "arrays", "files"} <= set(content)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedCheckpointError(f"{path} cannot be read ({error})") from error
    if not good or not complete:
        raise DamagedCheckpointError(f"{path} has changed since it was written")
    return content


def read(folder: Path, wanted: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
    """Reads arrays by name, each directly onto its sharding and in the dtype of `wanted`.

    Raises:
      DamagedCheckpointError: files that cannot be decoded, or an array that they lack.
    """
    args = ocp.args.PyTreeRestore(
        dict(wanted), restore_args=ocp.checkpoint_utils.construct_restore_args(dict(wanted)), partial_restore=True
    )
    try:
        arrays = orbax(wanted).restore(folder / ARRAYS, args=args)
    except (MemoryError, jax.errors.JaxRuntimeError):
        raise  # of this machine, not of the files
    except Exception as error:  # Orbax and TensorStore raise errors of many types
        reason = next(iter(str(error).splitlines()), "")[:200]
        raise DamagedCheckpointError(
            f"{folder / ARRAYS} cannot be decoded: {type(error).__name__}: {reason}"
        ) from error
    for name, x in wanted.items():
        stored = arrays.get(name)
        if not isinstance(stored, jax.Array) or (stored.shape, stored.dtype) != (x.shape, x.dtype):
            raise DamagedCheckpointError(f"{folder / ARRAYS} has no array {name} of shape {x.shape}")
    return arrays


def complete_steps(directory: PathLike) -> list[int]:
    """Steps with a complete checkpoint under a directory, ascending."""
    names = (path.parent.name for path in Path(directory).glob(f"*/{MANIFEST}"))
    return sorted(int(name) for name in names if re.fullmatch("0|[1-9][0-9]*", name))


def file_sizes(folder: Path) -> dict[str, int]:
    """The size of every file below a folder, by relative path; manifests excluded."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(MANIFEST))
    return {str(path.relative_to(folder)): path.stat().st_size for path in files}


def check_writable(directory: Path) -> None:
    """Creates the directory.

    Raises:
      PermissionError: it cannot be created or written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe = directory / f".writable_{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise PermissionError(
            f"run_dir: {directory} cannot be written ({error.strerror}); choose a writable folder, "
            "e.g. --gin.RUN_DIR=/tmp/run"
        ) from error


def check_same(wanted: Mapping[str, Any], stored: Mapping[str, list], where: str) -> None:
    """Compares the arrays of a model with those of a checkpoint.

    Raises:
      ValueError: arrays that are missing, left over or of another shape, by name with both shapes.
    """
    problems = [f"{name}: missing in the checkpoint" for name in wanted if name not in stored]
    problems += [f"{name}: in the checkpoint, not in the model" for name in stored if name not in wanted]
    problems += [
        f"{name}: shape {tuple(x.shape)} in the model, {tuple(stored[name][0])} in the checkpoint"
        for name, x in wanted.items()
        if name in stored and list(x.shape) != stored[name][0]
    ]
    if problems:
        excerpt = "\n  ".join(problems[:20]) + (f"\n  and {len(problems) - 20} more" if len(problems) > 20 else "")
        raise ValueError(
            f"{where} does not fit the model:\n  {excerpt}\nUse the run's own config.gin, another run_dir, "
            "or start from some of its parameters with trainer.train.initialize_from"
        )

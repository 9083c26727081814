"""The format of a checkpoint on disk.

    <folder>/arrays/         every array, by name ("params.decoder.norm.scale"), as written by Orbax
            /manifest.json   metadata, names and shapes of the arrays, and the size of every file; written last

A folder without a manifest, or with files of other sizes than the manifest says, is not a checkpoint.
"""

import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from t5x_like.types import PathLike

MANIFEST, ARRAYS = "manifest.json", "arrays"


def leaves_by_name(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their path, joined with dots."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def orbax() -> ocp.Checkpointer:
    """An Orbax checkpointer whose processes synchronize without the devices.

    Collectives of a saving thread would interleave with those of the training steps.
    """
    everyone = ocp.options.MultiprocessingOptions(active_processes=set(range(jax.process_count())))
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=everyone)
    return ocp.Checkpointer(handler, multiprocessing_options=everyone)


def write(folder: Path, arrays: Mapping[str, Any], facts: Mapping[str, Any], checkpointer: ocp.Checkpointer) -> None:
    """Writes arrays by name, then the manifest, which holds `facts` besides its own fields. All processes call this."""
    checkpointer.save(folder / ARRAYS, args=ocp.args.PyTreeSave(dict(arrays)))
    if jax.process_index() == 0:
        shapes = {name: [list(x.shape), str(x.dtype)] for name, x in arrays.items()}
        content = dict(facts) | {"arrays": shapes, "files": file_sizes(folder)}
        temporary = folder / f"{MANIFEST}.tmp"
        temporary.write_text(json.dumps(content))
        os.replace(temporary, folder / MANIFEST)


def manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a complete checkpoint."""
    return json.loads((folder / MANIFEST).read_text())


def read(folder: Path, wanted: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
    """Reads arrays by name, each directly onto its sharding and in the dtype of `wanted`."""
    args = ocp.args.PyTreeRestore(
        dict(wanted), restore_args=ocp.checkpoint_utils.construct_restore_args(dict(wanted)), partial_restore=True
    )
    return orbax().restore(folder / ARRAYS, args=args)


def complete_steps(directory: PathLike) -> list[int]:
    """Steps with a complete checkpoint under a directory, ascending."""
    manifests = Path(directory).glob(f"*/{MANIFEST}")
    return sorted(int(path.parent.name) for path in manifests if path.parent.name.isdigit())


def latest_step(directory: PathLike) -> int | None:
    """The newest undamaged checkpoint under a directory. Warns of damaged ones and skips them."""
    for step in reversed(complete_steps(directory)):
        folder = Path(directory) / str(step)
        if (damage := damage_of(folder)) is None:
            return step
        warnings.warn(f"checkpoint {folder} is damaged ({damage}); skipping it", stacklevel=2)
    return None


def file_sizes(folder: Path) -> dict[str, int]:
    """The size of every file below a folder, by relative path; manifests excluded."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(MANIFEST))
    return {str(path.relative_to(folder)): path.stat().st_size for path in files}


def damage_of(folder: Path) -> str | None:
    """Describes the first damage to a checkpoint's files; None if undamaged."""
    try:
        expected = manifest(folder)["files"]
    except (ValueError, KeyError):
        return f"{MANIFEST} cannot be read"
    actual = file_sizes(folder)
    for name, size in expected.items():
        if name not in actual:
            return f"{name} is missing"
        if actual[name] != size:
            return f"{name} has {actual[name]} of {size} bytes"
    return None


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

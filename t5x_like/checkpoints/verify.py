"""Verification of checkpoints that are read: sizes and checksums of their files, and the fall back to the previous step."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from t5x_like.checkpoints import checksums
from t5x_like.checkpoints.folder import DamagedCheckpointError, complete_steps, file_sizes, manifest
from t5x_like.types import PathLike

Result = TypeVar("Result")


def check(folder: Path, with_checksums: bool = True) -> None:
    """Compares a checkpoint's files with its manifest; several processes share the reading of the files.

    Raises:
      DamagedCheckpointError: a file is missing or has changed.
    """
    content, actual = manifest(folder), file_sizes(folder)
    for name, size in content["files"].items():
        if name not in actual:
            raise DamagedCheckpointError(f"{folder / name} is missing")
        if actual[name] != size:
            raise DamagedCheckpointError(f"{folder / name} has {actual[name]} of {size} bytes")
    expected = content.get("checksums", {}) if with_checksums else {}  # absent in earlier versions
    if others := [
        name for name in expected if name not in actual
    ]:  # a name may come from elsewhere, so it is not opened
        raise DamagedCheckpointError(f"{folder / others[0]} is missing")
    try:
        found = checksums.compute(folder, checksums.own_files(expected), checksums.read_chunk)
    except OSError as error:
        raise DamagedCheckpointError(f"{error.filename or folder} cannot be read ({error.strerror})") from error
    for name, value in found.items():
        if value != expected[name]:
            raise DamagedCheckpointError(f"{folder / name} has changed since it was written (its checksum differs)")


def read_newest(
    directory: Path, read_step: Callable[[Path], Result], with_checksums: bool = True
) -> tuple[Result, Path]:
    """(what `read_step` returns, folder) of the newest undamaged checkpoint. Warns of damaged ones and skips them.

    All processes call this, and agree on the step.

    Raises:
      FileNotFoundError: no checkpoint. DamagedCheckpointError: all are damaged.
    """
    steps = complete_steps(directory)
    for step in reversed(steps):
        try:
            return read_checked(directory / str(step), read_step, with_checksums), directory / str(step)
        except DamagedCheckpointError as error:
            last = error
            if step != steps[0]:
                warnings.warn(f"checkpoint {step} is damaged: {error}; reading the previous one", stacklevel=2)
    if not steps:
        raise FileNotFoundError(f"no checkpoint in {directory}; train first")
    raise DamagedCheckpointError(
        f"every checkpoint in {directory} is damaged (steps {', '.join(map(str, steps))}; {last}); copy a good one "
        "there, or use another run_dir"
    )


def read_checked(folder: Path, read_step: Callable[[Path], Result], with_checksums: bool = True) -> Result:
    """What `read_step` returns for an undamaged checkpoint.

    Raises:
      DamagedCheckpointError: it is damaged, for this process or another.
    """
    together(lambda: check(folder, with_checksums))
    return together(lambda: read_step(folder))


def together(function: Callable[[], Result]) -> Result:
    """The result of a function that every process calls; damage that one of them finds is raised by all."""
    try:
        result, damage = function(), None
    except DamagedCheckpointError as error:
        result, damage = None, error
    if jax.process_count() > 1 and np.any(multihost_utils.process_allgather(np.array(damage is not None))):
        damage = damage or DamagedCheckpointError("another process found damage and says where")
    if damage is not None:
        raise damage
    return result  # type: ignore[return-value]


def latest_step(directory: PathLike) -> int | None:
    """The newest checkpoint whose files have the right sizes. Warns of damaged ones and skips them."""
    for step in reversed(complete_steps(directory)):
        try:
            check(Path(directory) / str(step), with_checksums=False)
            return step
        except DamagedCheckpointError as error:
            warnings.warn(f"checkpoint {step} is damaged: {error}; skipping it", stacklevel=2)
    return None

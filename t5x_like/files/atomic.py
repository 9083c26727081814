"""Files and folders that appear complete or not at all, with the permissions that the user's umask gives.

They are written under a temporary name, `.NAME.RANDOM.partial`. What a killed process left of a folder, the next writer removes.
"""

import contextlib
import fcntl
import glob
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from t5x_like.types import PathLike


@contextlib.contextmanager
def new_file(path: PathLike) -> Iterator[BinaryIO]:
    """A file that gets its name when it is complete; an error leaves no part of it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(path)
    try:
        with open(partial, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(path: PathLike) -> Iterator[Path]:
    """A folder that gets its name when it is complete; an error leaves no part of it. An empty folder of this name is replaced.

    Raises:
      OSError: the folder exists and is not empty.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(path)
    partial.mkdir()
    try:
        with lock_folder(partial):
            remove_abandoned(path)
            yield partial
            os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def partial_path(path: Path) -> Path:
    """A temporary name beside `path`."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Locks a folder while its process writes it; the lock ends with the process, however that ends.

    Raises:
      BlockingIOError: another process writes it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def remove_abandoned(path: Path) -> None:
    """Removes temporary folders of `path` that no process writes any more."""
    for partial in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        with contextlib.suppress(OSError), lock_folder(partial):
            shutil.rmtree(partial)

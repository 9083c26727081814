"""Remote token caches: blocks are fetched when they are read, verified, and kept in sparse local files.

The URL may be of any file system that fsspec supports (gs://, s3://, https://, ...). A block that was fetched once is read
from the local disk from then on, by this run and others. Processes may fetch concurrently: they write the same bytes.
"""

import functools
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

from t5x_like.data.cache import checks as cache_checks
from t5x_like.data.cache import manifests
from t5x_like.data.cache.checks import BLOCK

BLOCKS_PER_FETCH = 16
ATTEMPTS = 5
BLOCKS = ".blocks"  # ends the names of the local files that say which blocks are here


def is_url(root: object) -> TypeGuard[str]:
    """Whether a cache root is remote."""
    return isinstance(root, str) and "://" in root


def open_file_system(url: str) -> tuple[Any, str]:
    """(fsspec file system, path in it) of a URL.

    Raises:
      ImportError: the package that reads such URLs is missing.
    """
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise ImportError(f"{url} is read by fsspec: pip install 't5x_like[remote]'") from error
    return url_to_fs(url)


def read_manifests(url: str, pattern: str) -> Iterator[tuple[str, bytes]]:
    """Yields (path, content) of each manifest below a URL that matches `pattern`."""
    system, base = open_file_system(url)
    pattern = f"{base.rstrip('/')}/{pattern}"
    for path in sorted(system.glob(pattern)) if "*" in pattern else [pattern] * system.exists(pattern):
        check_size(f"{url} ({path})", system, path, manifests.SIZE_LIMIT)
        yield path, system.cat_file(path)


def check_size(name: str, system: Any, path: str, limit: int) -> None:
    """Checks that a remote file has at most `limit` bytes, if its server says how many it has.

    Raises:
      ValueError: it has more.
    """
    size = system.info(path).get("size")
    if size is not None and size > limit:
        raise ValueError(f"{name} has {size} bytes instead of at most {limit}: it is not the file of a token cache")


class Mirror:
    """The local copy of a remote cache: sparse files of full size, filled in block by block.

    Raises:
      ValueError: the manifest is damaged or unsafe.
    """

    def __init__(self, url: str, path: str, manifest: bytes, home: Path):
        self.system, self.path = open_file_system(url)[0], path.rpartition("/")[0]
        self.url, self.manifest = f"{url} ({self.path})", manifests.parse(manifest, f"{url} ({path})")
        if maps := [name for name in self.manifest["files"] if name.endswith(BLOCKS)]:
            raise ValueError(f"{self.url}: files may not be named as the maps of local blocks: {', '.join(maps)}")
        key = hashlib.sha256(f"{url}\n{path}\n".encode() + manifest).hexdigest()[:24]
        self.folder = home / "mirror" / key
        for name in self.manifest["files"]:
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)

    @functools.cache  # noqa: B019 (a mirror lives as long as its run)
    def open_file(self, name: str) -> tuple[int, np.ndarray]:
        """(file descriptor, uint8[blocks] with 1 for each block that is here)."""
        file = self.manifest["files"][name]
        descriptor = open_sized(self.folder / name, file["bytes"])
        blocks = f"{name}{BLOCKS}"
        os.close(open_sized(self.folder / blocks, len(file["blocks"])))
        return descriptor, np.memmap(self.folder / blocks, np.uint8, "r+") if file["blocks"] else np.zeros(0, np.uint8)

    def fetch(self, name: str, number_N: np.ndarray) -> None:
        """Fetches the blocks `number_N` of a file that are not here yet.

        Raises:
          ValueError: a block does not match its checksum; the message names URL and bytes.
        """
        descriptor, is_local = self.open_file(name)
        missing = number_N[is_local[number_N] == 0]
        file = self.manifest["files"][name]
        if len(missing):
            check_size(f"{self.url}: {name}", self.system, f"{self.path}/{name}", file["bytes"])
        for start in range(0, len(missing), BLOCKS_PER_FETCH):
            numbers = missing[start : start + BLOCKS_PER_FETCH].tolist()
            begins = [number * BLOCK for number in numbers]
            ends = [min(begin + BLOCK, file["bytes"]) for begin in begins]
            for number, begin, block in zip(numbers, begins, self.read_ranges(name, begins, ends), strict=True):
                cache_checks.check_block(f"{self.url}: {name}", number, block, file["blocks"])
                os.pwrite(descriptor, block, begin)
            os.fsync(descriptor)
            is_local[numbers] = 1  # set after the data is on disk, so that a kill in between costs only a second fetch

    def read_ranges(self, name: str, begins: list[int], ends: list[int]) -> list[bytes]:
        """Ranges of bytes of a remote file; network errors are retried with exponential backoff.

        Raises:
          FileNotFoundError: there is no such file.
          Exception: the file system's own error, after the last attempt.
        """
        for attempt in range(ATTEMPTS):
            try:
                return self.system.cat_ranges([f"{self.path}/{name}"] * len(begins), begins, ends, on_error="raise")
            except FileNotFoundError:
                raise
            except Exception:  # each file system has its own error types
                if attempt == ATTEMPTS - 1:
                    raise
                time.sleep(2**attempt / 4)
        raise AssertionError

    def fetch_file(self, name: str) -> Path:
        """Fetches a whole file and returns its local path."""
        self.fetch(name, np.arange(len(self.manifest["files"][name]["blocks"])))
        return self.folder / name

    def ids(self, name: str, dtype: str) -> "RemoteIds | np.ndarray":
        """The ids in a file, fetched when they are read."""
        self.open_file(name)
        if not self.manifest["files"][name]["bytes"]:
            return np.empty(0, dtype)
        flat = np.memmap(self.folder / name, dtype, "r").view(np.ndarray)
        return RemoteIds(functools.partial(self.fetch, name), flat, 0)


def open_sized(path: Path, size: int) -> int:
    """Opens a file of `size` bytes for reading and writing; a new file is one hole. Returns the descriptor."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    if os.fstat(descriptor).st_size != size:
        os.truncate(descriptor, size)
    return descriptor


class RemoteIds:
    """Has the interface of the array `x`, a contiguous part of a file from byte `begin`: indexing fetches what it reads."""

    def __init__(self, fetch: Callable[[np.ndarray], None], x: np.ndarray, begin: int):
        self._fetch, self._x, self._begin = fetch, x, begin
        self.shape, self.dtype, self.size, self.ndim = x.shape, x.dtype, x.size, x.ndim

    def __len__(self) -> int:
        return len(self._x)

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        self._ensure(np.zeros(1, np.int64), self._x.nbytes)
        return np.array(self._x, dtype, copy=copy)

    def reshape(self, *shape: int) -> "RemoteIds":
        """A view of another shape; fetches nothing."""
        return RemoteIds(self._fetch, self._x.reshape(*shape), self._begin)

    def __getitem__(self, index: Any) -> Any:
        """For a slice of step 1, a view that fetches when it is read; for any other index, the ids."""
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step == 1:
                return RemoteIds(self._fetch, self._x[index], self._begin + start * self._width)
            index = np.arange(start, stop, step)
        elif isinstance(index, tuple):
            return np.asarray(self)[index]
        index = np.asarray(index)
        index = np.flatnonzero(index) if index.dtype == bool else index
        self._ensure(np.where(index < 0, index + len(self), index).reshape(-1), self._width)
        return self._x[index]

    def take(self, index: npt.ArrayLike, mode: str = "raise") -> np.ndarray:
        """`numpy.take` along the first axis."""
        index = np.asarray(index)
        return self[np.clip(index, 0, len(self) - 1) if mode == "clip" else index]

    @property
    def _width(self) -> int:
        """Bytes from one entry of the first axis to the next."""
        return self._x.strides[0]

    def _ensure(self, index_N: np.ndarray, width: int) -> None:
        """Fetches the blocks that hold entries `index_N` of the first axis, each of `width` bytes."""
        if not len(index_N) or not width:
            return
        first_N = self._begin + index_N.astype(np.int64) * self._width
        span = (width - 1) // BLOCK + 1
        last_N = (first_N + width - 1) // BLOCK
        numbers = np.minimum(first_N[:, None] // BLOCK + np.arange(span + 1), last_N[:, None])
        self._fetch(np.unique(numbers))

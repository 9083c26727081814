"""Token caches on another machine: what is read of them is fetched block by block, checked, and kept in sparse files here.

A cache is a URL of any file system that fsspec knows (gs://, s3://, https://, ...). A block that was fetched once is read
from this machine's disk from then on, by this run and others; processes may fetch side by side, for what they write is the same.
"""

import functools
import hashlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from t5x_like.data.cache import checks as cache_checks
from t5x_like.data.cache.checks import BLOCK

TOGETHER = 16  # blocks that are fetched at once
ATTEMPTS = 5


def is_url(root) -> bool:
    """Whether a root is on another machine."""
    return isinstance(root, str) and "://" in root


def file_system(url: str):
    """(fsspec's file system, path in it) of a URL.

    Raises:
      ImportError: the package that reads such URLs is missing.
    """
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise ImportError(f"{url} is read by fsspec: pip install 't5x_like[remote]'") from error
    return url_to_fs(url)


def manifests(url: str, pattern: str) -> Iterator[tuple[str, bytes]]:
    """(path, content) of the manifests below a URL."""
    system, base = file_system(url)
    path = f"{base.rstrip('/')}/{pattern}"
    for found in sorted(system.glob(path)) if "*" in pattern else [path] * system.exists(path):
        yield found, system.cat_file(found)


class Mirror:
    """A remote cache as far as it was read: a folder here, with files of the right size that have holes."""

    def __init__(self, url: str, path: str, manifest: bytes, home: Path):
        self.system, self.path = file_system(url)[0], path.rpartition("/")[0]
        self.url, self.manifest = f"{url} ({self.path})", json.loads(manifest)
        key = hashlib.sha256(f"{url}\n{path}\n".encode() + manifest).hexdigest()[:24]
        self.folder = home / "mirror" / key
        for name in self.manifest["files"]:
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)

    @functools.cache  # noqa: B019 (a mirror lives as long as its run)
    def opened(self, name: str) -> tuple[int, np.ndarray]:
        """(descriptor of a file, which of its blocks are here)."""
        file = self.manifest["files"][name]
        descriptor = sized(self.folder / name, file["bytes"])
        blocks = f"{name}.blocks"
        os.close(sized(self.folder / blocks, len(file["blocks"])))
        return descriptor, np.memmap(self.folder / blocks, np.uint8, "r+") if file["blocks"] else np.zeros(0, np.uint8)

    def fetch(self, name: str, number_N: np.ndarray) -> None:
        """Makes sure that blocks of a file are here.

        Raises:
          ValueError: a block that is not what was written, by URL and bytes.
        """
        descriptor, here = self.opened(name)
        missing = number_N[here[number_N] == 0]
        file = self.manifest["files"][name]
        for start in range(0, len(missing), TOGETHER):
            some = missing[start : start + TOGETHER].tolist()
            begins = [number * BLOCK for number in some]
            ends = [min(begin + BLOCK, file["bytes"]) for begin in begins]
            for number, begin, block in zip(some, begins, self.ranges(name, begins, ends), strict=True):
                cache_checks.check_block(f"{self.url}: {name}", number, block, file["blocks"])
                os.pwrite(descriptor, block, begin)
            os.fsync(descriptor)
            here[some] = 1  # after the block itself, so that a kill between them costs a block at most

    def ranges(self, name: str, begins: list[int], ends: list[int]) -> list[bytes]:
        """Ranges of a remote file; a network that fails is asked again, later and later."""
        for attempt in range(ATTEMPTS):
            try:
                return self.system.cat_ranges([f"{self.path}/{name}"] * len(begins), begins, ends, on_error="raise")
            except FileNotFoundError:
                raise
            except Exception:  # every file system has its own errors
                if attempt == ATTEMPTS - 1:
                    raise
                time.sleep(2**attempt / 4)
        raise AssertionError

    def whole(self, name: str) -> Path:
        """A file, all of which is here."""
        self.fetch(name, np.arange(len(self.manifest["files"][name]["blocks"])))
        return self.folder / name

    def ids(self, name: str, dtype: str) -> "RemoteIds | np.ndarray":
        """The ids in a file, fetched when they are read."""
        self.opened(name)
        if not self.manifest["files"][name]["bytes"]:
            return np.empty(0, dtype)
        flat = np.memmap(self.folder / name, dtype, "r").view(np.ndarray)
        return RemoteIds(functools.partial(self.fetch, name), flat, 0)


def sized(path: Path, size: int) -> int:
    """The descriptor of a file of `size` bytes, made of a hole where there is none."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    if os.fstat(descriptor).st_size != size:
        os.truncate(descriptor, size)
    return descriptor


class RemoteIds:
    """Reads as the array `x` does, a contiguous part of a file from byte `begin` on: what is indexed is fetched first."""

    def __init__(self, fetch, x: np.ndarray, begin: int):
        self._fetch, self._x, self._begin = fetch, x, begin
        self.shape, self.dtype, self.size, self.ndim = x.shape, x.dtype, x.size, x.ndim

    def __len__(self) -> int:
        return len(self._x)

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        self._ensure(np.zeros(1, np.int64), self._x.nbytes)
        return np.array(self._x, dtype, copy=copy)

    def reshape(self, *shape) -> "RemoteIds":
        return RemoteIds(self._fetch, self._x.reshape(*shape), self._begin)

    def __getitem__(self, index):
        """A part, fetched when it is read, of a slice; the ids themselves of an integer, or of an array of them."""
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

    def take(self, index, mode: str = "raise") -> np.ndarray:
        """As numpy's, of one dimension."""
        index = np.asarray(index)
        return self[np.clip(index, 0, len(self) - 1) if mode == "clip" else index]

    @property
    def _width(self) -> int:
        """Bytes from one entry of the first axis to the next."""
        return self._x.strides[0]

    def _ensure(self, index_N: np.ndarray, width: int) -> None:
        """Fetches entries of the first axis, each of `width` bytes."""
        if not len(index_N) or not width:
            return
        first_N = self._begin + index_N.astype(np.int64) * self._width
        span = (width - 1) // BLOCK + 1
        last_N = (first_N + width - 1) // BLOCK
        numbers = np.minimum(first_N[:, None] // BLOCK + np.arange(span + 1), last_N[:, None])
        self._fetch(np.unique(numbers))

"""The append-only files of a token cache under construction, and the journal from which a killed build resumes.

Files are written in parts. A part is complete once the journal has its line, which holds the position in the source, the
size of each file and the checksum of the bytes that the part added. Resuming keeps all complete parts and truncates the rest.
"""

import contextlib
import dataclasses
import errno
import json
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from t5x_like.data.cache.manifests import EXAMPLES
from t5x_like.data.cache.tokenizing import Tokens

JOURNAL = "journal.jsonl"
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
READ_SIZE = 2**22


@dataclasses.dataclass(frozen=True)
class Place:
    """A position in a source: `examples` read of shard `shard`, and how many the earlier shards dropped, by rule."""

    shard: int = 0
    examples: int = 0
    dropped: dict[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Part:
    """A line of the journal: totals up to the end of a part; `sums` are crc32 of the bytes it added to each file."""

    place: Place
    documents: int
    sizes: dict[str, int]
    text_bytes: dict[str, int]
    max_id: dict[str, int]
    sums: dict[str, int]

    def to_line(self) -> str:
        """The line, preceded by its own crc32."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return f"{zlib.crc32(text.encode()):08x} {text}\n"

    @classmethod
    def from_line(cls, line: str) -> "Part":
        """Parses a line.

        Raises:
          ValueError: the line is incomplete.
        """
        digest, _, text = line.rstrip("\n").partition(" ")
        if digest != f"{zlib.crc32(text.encode()):08x}":
            raise ValueError("torn line")
        fields = json.loads(text)
        return cls(**fields | {"place": Place(**fields["place"])})


def read_complete_parts(folder: Path, names: Sequence[str]) -> list[Part]:
    """The parts in a journal that are complete in all of the files `names`, up to the first that is not."""
    parts: list[Part] = []
    with contextlib.suppress(ValueError, OSError, KeyError, TypeError):
        for line in (folder / JOURNAL).read_text().splitlines(keepends=True):
            part = Part.from_line(line)
            before = parts[-1].sizes if parts else dict.fromkeys(names, 0)
            ranges = ((name, before[name], part.sizes[name]) for name in names)
            if any(range_checksum(folder / name, start, stop) != part.sums[name] for name, start, stop in ranges):
                break
            parts.append(part)
    return parts


def range_checksum(path: Path, start: int, stop: int) -> int | None:
    """crc32 of the bytes [start, stop) of a file, or None if the file is shorter."""
    checksum, remaining = 0, stop - start
    with open(path, "rb") as f:
        f.seek(start)
        while remaining and (block := f.read(min(remaining, READ_SIZE))):
            checksum, remaining = zlib.crc32(block, checksum), remaining - len(block)
    return None if remaining else checksum


@contextlib.contextmanager
def explain_full_disk(folder: Path) -> Iterator[None]:
    """Rewords the errors of a full disk: they name the folder, the free bytes and the remedy.

    Raises:
      OSError: the disk is full, or any other error of the body, unchanged.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        free = shutil.disk_usage(folder).free
        raise OSError(
            error.errno,
            f"{error.strerror} for {folder}: {free:,} bytes are free, {getattr(error, 'unwritten', 'more')} are needed; "
            "free some space (or raise the quota) and run it again: it resumes after the last complete part",
        ) from error


class AppendOnlyFile:
    """A file that only grows, and the crc32 of the bytes added since the last part."""

    def __init__(self, path: Path, size: int):
        self.file = open(path, "r+b" if path.exists() else "w+b", buffering=0)  # noqa: SIM115
        self.file.truncate(size)
        self.file.seek(size)
        self.size, self.checksum = size, 0

    def write(self, data: bytes | np.ndarray) -> None:
        """Appends all of `data`; an OSError gets the number of unwritten bytes as its attribute `unwritten`."""
        left = memoryview(cast(Any, data)).cast("B")
        self.checksum, self.size = zlib.crc32(left, self.checksum), self.size + len(left)
        try:
            while left:
                left = left[self.file.write(left) :]
        except OSError as error:
            cast(Any, error).unwritten = f"{len(left):,}"
            raise

    def sync(self) -> int:
        """Flushes the file to disk and returns the checksum since the last part."""
        os.fsync(self.file.fileno())
        last, self.checksum = self.checksum, 0
        return last


class CacheWriter:
    """The files of a cache under construction; `features` maps names to the dtypes of their ids.

    Resumes after the last complete part in `folder`.
    """

    def __init__(self, folder: Path, features: Mapping[str, np.dtype], examples: bool):
        self.folder, self.features = folder, dict(features)
        names = [f"{name}.{kind}" for name in features for kind in ("tokens", "offsets")] + [EXAMPLES] * examples
        parts = read_complete_parts(folder, names)
        zero = dict.fromkeys(features, 0)
        self.part = parts[-1] if parts else Part(Place(), 0, dict.fromkeys(names, 0), zero, zero, {})
        with explain_full_disk(folder):
            self.files = {name: AppendOnlyFile(folder / name, self.part.sizes[name]) for name in names}
            self.journal = AppendOnlyFile(folder / JOURNAL, sum(len(part.to_line().encode()) for part in parts))
            for name in features:
                if not self.files[f"{name}.offsets"].size:
                    self.files[f"{name}.offsets"].write(np.zeros(1, np.int64))

    @property
    def documents(self) -> int:
        """The number of documents written."""
        return self.part.documents

    @property
    def place(self) -> Place:
        """The position in the source up to which documents were written."""
        return self.part.place

    def tokens(self, feature: str) -> int:
        """The number of ids written of a feature."""
        return self.files[f"{feature}.tokens"].size // self.features[feature].itemsize

    def append(self, features: Mapping[str, Tokens], examples: bytes, place: Place) -> None:
        """Appends documents, and the lines of their other fields; `place` is the position in the source after them.

        Raises:
          OSError: the disk is full.
        """
        text_bytes, max_id, documents = {}, {}, 0
        with explain_full_disk(self.folder):
            for name, tokens in features.items():
                ends = self.tokens(name) + np.cumsum(tokens.lengths, dtype=np.int64)
                self.files[f"{name}.tokens"].write(tokens.ids)
                self.files[f"{name}.offsets"].write(ends)
                text_bytes[name] = self.part.text_bytes[name] + tokens.text_bytes
                max_id[name] = max(self.part.max_id[name], tokens.max_id)
                documents = len(ends)
            if EXAMPLES in self.files:
                self.files[EXAMPLES].write(examples)
        self.part = dataclasses.replace(
            self.part, place=place, documents=self.documents + documents, text_bytes=text_bytes, max_id=max_id
        )

    def end_part(self) -> None:
        """Flushes all files and completes a part in the journal."""
        with explain_full_disk(self.folder):
            sums = {name: file.sync() for name, file in self.files.items()}
            sizes = {name: file.size for name, file in self.files.items()}
            self.part = dataclasses.replace(self.part, sizes=sizes, sums=sums)
            self.journal.write(self.part.to_line().encode())
            self.journal.sync()

    def close(self) -> None:
        """Closes all files."""
        for file in (*self.files.values(), self.journal):
            file.file.close()

    def describe_features(self) -> dict[str, dict]:
        """The manifest's entries for the features."""
        return {
            name: {
                "dtype": dtype.name,
                "tokens": self.tokens(name),
                "text_bytes": self.part.text_bytes[name],
                "max_id": self.part.max_id[name],
            }
            for name, dtype in self.features.items()
        }

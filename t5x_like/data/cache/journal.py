"""The growing files of a token cache, written in parts, and the journal by which a build that was killed goes on.

A part is whole when the journal has its line: where the source was read to, how long every file is, and the checksum of
what the part added. Reading it back keeps all whole parts and cuts off what came after them.
"""

import contextlib
import dataclasses
import errno
import json
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from t5x_like.data.cache.token_cache import EXAMPLES
from t5x_like.data.cache.tokenizing import Tokens

JOURNAL = "journal.jsonl"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
READ_SIZE = 2**22


@dataclasses.dataclass(frozen=True)
class Place:
    """How far a source was read: `examples` of shard `shard`, and what the shards before it dropped, by rule."""

    shard: int = 0
    examples: int = 0
    dropped: dict[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Part:
    """A line of the journal: everything up to the end of a part; `sums` are of what it added to each file."""

    place: Place
    documents: int
    sizes: dict[str, int]
    text_bytes: dict[str, int]
    max_id: dict[str, int]
    sums: dict[str, int]

    def line(self) -> str:
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return f"{zlib.crc32(text.encode()):08x} {text}\n"

    @classmethod
    def parsed(cls, line: str) -> "Part":
        """Raises ValueError where the line is not whole."""
        digest, _, text = line.rstrip("\n").partition(" ")
        if digest != f"{zlib.crc32(text.encode()):08x}":
            raise ValueError("torn line")
        fields = json.loads(text)
        return cls(**fields | {"place": Place(**fields["place"])})


def whole_parts(folder: Path) -> list[Part]:
    """The parts of a journal that are whole, in all files, up to the first that is not."""
    parts: list[Part] = []
    with contextlib.suppress(ValueError, OSError):
        for line in (folder / JOURNAL).read_text().splitlines(keepends=True):
            part = Part.parsed(line)
            before = parts[-1].sizes if parts else dict.fromkeys(part.sizes, 0)
            if any(sum_of(folder / name, before[name], size) != part.sums[name] for name, size in part.sizes.items()):
                break
            parts.append(part)
    return parts


def sum_of(path: Path, start: int, stop: int) -> int | None:
    """crc32 of bytes of a file; None where it is shorter."""
    sum_, left = 0, stop - start
    with open(path, "rb") as f:
        f.seek(start)
        while left and (block := f.read(min(left, READ_SIZE))):
            sum_, left = zlib.crc32(block, sum_), left - len(block)
    return None if left else sum_


@contextlib.contextmanager
def naming_full_disk(folder: Path) -> Iterator[None]:
    """Says what to do when there is no room for a cache's files."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        free = shutil.disk_usage(folder).free
        raise OSError(
            error.errno,
            f"{error.strerror} for {folder}: {free:,} bytes are free, {getattr(error, 'wanted', 'more')} were to be "
            "written; make room (or raise the quota) and run it again: it goes on from the last whole part",
        ) from error


class Growing:
    """A file that only grows, and the checksum of what was added since the last part."""

    def __init__(self, path: Path, size: int):
        self.file = open(path, "r+b" if path.exists() else "w+b", buffering=0)  # noqa: SIM115
        self.file.truncate(size)
        self.file.seek(size)
        self.size, self.sum = size, 0

    def write(self, data) -> None:
        left = memoryview(data).cast("B")
        self.sum, self.size = zlib.crc32(left, self.sum), self.size + len(left)
        try:
            while left:
                left = left[self.file.write(left) :]
        except OSError as error:
            error.wanted = f"{len(left):,}"
            raise

    def sync(self) -> int:
        """The checksum since the last part, which is on the disk now."""
        os.fsync(self.file.fileno())
        last, self.sum = self.sum, 0
        return last


class Writer:
    """The files of a cache that is being built; `features` are the types of their ids.

    Goes on after the last whole part that it finds in `folder`.
    """

    def __init__(self, folder: Path, features: Mapping[str, np.dtype], examples: bool):
        self.folder, self.features = folder, dict(features)
        names = [f"{name}.{kind}" for name in features for kind in ("tokens", "offsets")] + [EXAMPLES] * examples
        parts = whole_parts(folder)
        zero = dict.fromkeys(features, 0)
        self.part = parts[-1] if parts else Part(Place(), 0, dict.fromkeys(names, 0), zero, zero, {})
        with naming_full_disk(folder):
            self.files = {name: Growing(folder / name, self.part.sizes[name]) for name in names}
            self.journal = Growing(folder / JOURNAL, sum(len(part.line().encode()) for part in parts))
            for name in features:
                if not self.files[f"{name}.offsets"].size:
                    self.files[f"{name}.offsets"].write(np.zeros(1, np.int64))

    @property
    def documents(self) -> int:
        return self.part.documents

    @property
    def place(self) -> Place:
        return self.part.place

    def tokens(self, feature: str) -> int:
        """Ids of a feature so far."""
        return self.files[f"{feature}.tokens"].size // self.features[feature].itemsize

    def append(self, features: Mapping[str, Tokens], examples: bytes, place: Place) -> None:
        """Adds documents; the source was read up to `place`."""
        text_bytes, max_id, documents = {}, {}, 0
        with naming_full_disk(self.folder):
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
        """Makes everything so far a whole part."""
        with naming_full_disk(self.folder):
            sums = {name: file.sync() for name, file in self.files.items()}
            sizes = {name: file.size for name, file in self.files.items()}
            self.part = dataclasses.replace(self.part, sizes=sizes, sums=sums)
            self.journal.write(self.part.line().encode())
            self.journal.sync()

    def close(self) -> None:
        for file in (*self.files.values(), self.journal):
            file.file.close()

    def described(self) -> dict[str, dict]:
        """The features as the manifest lists them."""
        return {
            name: {
                "dtype": dtype.name,
                "tokens": self.tokens(name),
                "text_bytes": self.part.text_bytes[name],
                "max_id": self.part.max_id[name],
            }
            for name, dtype in self.features.items()
        }

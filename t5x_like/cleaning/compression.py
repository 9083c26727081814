"""Reads plain, .gz and .zst files with bounded memory; damaged or truncated files raise an error of DAMAGE."""

import gzip
import io
import itertools
import os
import zlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any, BinaryIO, cast

from t5x_like.cleaning.steps import Dropped
from t5x_like.files.lines import MARK
from t5x_like.types import PathLike

DAMAGE = (EOFError, gzip.BadGzipFile, zlib.error)
COMPRESSED = (".gz", ".zst")
CHUNK = 1 << 20


def import_zstandard() -> ModuleType:
    """The zstandard package.

    Raises:
      ImportError: it is not installed.
    """
    try:
        import zstandard
    except ImportError as error:
        raise ImportError(".zst files need zstandard: pip install zstandard") from error
    return zstandard


class ZstandardFile(io.RawIOBase):
    """The bytes of a .zst file with any number of frames. (zstandard's own reader accepts truncated files.)

    Raises EOFError if the file is truncated or not Zstandard data.
    """

    READ_BYTES = 256  # per read: 4 of them may hold a block of 128 KiB, so 256 bytes may become 8 MiB

    def __init__(self, file: BinaryIO):
        self.package, self.file = import_zstandard(), file
        self.decompressor = self.package.ZstdDecompressor()
        self.frame: Any = None
        self.buffer, self.position = b"", 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while self.position == len(self.buffer):
            compressed = self.file.read(self.READ_BYTES)
            if not compressed:
                if self.frame is not None:
                    raise EOFError("the file ends inside a Zstandard frame")
                return 0
            self.buffer, self.position = self.decompress(compressed), 0
        part = memoryview(self.buffer)[self.position : self.position + len(buffer)]
        buffer[: len(part)] = part
        self.position += len(part)
        return len(part)

    def decompress(self, compressed: bytes) -> bytes:
        """The content of the next bytes of the file, in which a frame may end and another begin."""
        parts = []
        try:
            while compressed:
                self.frame = self.frame or self.decompressor.decompressobj()
                parts.append(self.frame.decompress(compressed))
                compressed = b""
                if self.frame.eof:
                    compressed, self.frame = self.frame.unused_data, None
        except self.package.ZstdError as error:
            raise EOFError(f"not Zstandard data: {error}") from error
        return b"".join(parts)

    def close(self) -> None:
        self.file.close()
        super().close()


def open_file(path: PathLike) -> BinaryIO:
    """Opens a file for reading its uncompressed bytes.

    Raises:
      ImportError: a .zst file without the package zstandard.
    """
    suffix = os.path.splitext(path)[1]
    if suffix == ".gz":
        return cast(BinaryIO, gzip.open(path, "rb"))
    if suffix == ".zst":
        import_zstandard()
        return io.BufferedReader(ZstandardFile(open(path, "rb")), CHUNK)
    return open(path, "rb")


def iterate_lines(file: BinaryIO, max_bytes: int, name: str) -> Iterator[bytes | Dropped]:
    """The lines of a file without its byte order mark; a line longer than max_bytes is a Dropped and never held as a whole."""
    for number in itertools.count(1):
        line = file.readline(max_bytes + 1)
        if not line:
            return
        if number == 1:
            line = line.removeprefix(MARK)
        if len(line) <= max_bytes or line.endswith(b"\n"):
            yield line
        else:
            rest = skip_line(file)
            detail = f"{name}:{number}: {len(line) + rest} bytes, allowed at most {max_bytes}"
            yield Dropped("reading.long_line", detail)


def skip_line(file: BinaryIO) -> int:
    """Reads to the end of the line and returns the number of bytes."""
    skipped = 0
    while part := file.readline(CHUNK):
        skipped += len(part)
        if part.endswith(b"\n"):
            break
    return skipped


def read_lines(path: PathLike, max_bytes: int) -> Iterator[bytes | Dropped]:
    """The lines of a file, also .gz or .zst; a damaged end is one Dropped."""
    with open_file(path) as file:
        try:
            yield from iterate_lines(file, max_bytes, os.path.basename(path))
        except DAMAGE as error:
            yield report_damage(path, error)


def report_damage(path: PathLike, error: Exception) -> Dropped:
    """The Dropped of a damaged file."""
    return Dropped("reading.damaged_file", f"{os.path.basename(path)}: {str(error)[:200]}; the rest is lost")


def read_content(path: PathLike, max_bytes: int) -> bytes | Dropped:
    """All bytes of a file; a Dropped if there are more than max_bytes or the file is damaged."""
    with open_file(path) as file:
        try:
            content = file.read(max_bytes + 1)
        except DAMAGE as error:
            return report_damage(path, error)
    if len(content) > max_bytes:
        return Dropped("reading.long_file", f"{os.path.basename(path)}: more than {max_bytes} bytes")
    return content

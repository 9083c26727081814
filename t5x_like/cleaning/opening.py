"""Bytes of plain, .gz and .zst files with bounded memory; what is damaged or cut off raises an error of DAMAGE."""

import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from t5x_like.cleaning.steps import Dropped

DAMAGE = (EOFError, gzip.BadGzipFile, zlib.error)
COMPRESSED = (".gz", ".zst")
CHUNK = 1 << 20


def zstandard():
    """The zstandard package."""
    try:
        import zstandard as package
    except ImportError as error:
        raise ImportError(".zst files need zstandard: pip install zstandard") from error
    return package


class ZstandardFile(io.RawIOBase):
    """The bytes of a .zst file of any number of frames. zstandard's own reader takes a cut file for a whole one.

    Raises EOFError where the file is cut off or is no Zstandard data.
    """

    TAKEN = 256  # bytes of the file at a time: 4 of them may hold a block of 128 KiB, so this may become 8 MiB

    def __init__(self, file: BinaryIO):
        self.package, self.file = zstandard(), file
        self.decompressor = self.package.ZstdDecompressor()
        self.frame, self.held, self.place = None, b"", 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        while self.place == len(self.held):
            taken = self.file.read(self.TAKEN)
            if not taken:
                if self.frame is not None:
                    raise EOFError("the file ends inside a Zstandard frame")
                return 0
            self.held, self.place = self.decompressed(taken), 0
        part = memoryview(self.held)[self.place : self.place + len(buffer)]
        buffer[: len(part)] = part
        self.place += len(part)
        return len(part)

    def decompressed(self, taken: bytes) -> bytes:
        """What some bytes of the file hold; a frame may end and the next begin among them."""
        parts = []
        try:
            while taken:
                self.frame = self.frame or self.decompressor.decompressobj()
                parts.append(self.frame.decompress(taken))
                taken = b""
                if self.frame.eof:
                    taken, self.frame = self.frame.unused_data, None
        except self.package.ZstdError as error:
            raise EOFError(f"no Zstandard data: {error}") from error
        return b"".join(parts)

    def close(self) -> None:
        self.file.close()
        super().close()


def opened(path: Path | str) -> BinaryIO:
    """The uncompressed bytes of a file; ImportError for .zst without zstandard."""
    suffix = Path(path).suffix
    if suffix == ".gz":
        return gzip.open(path, "rb")
    if suffix == ".zst":
        zstandard()
        return io.BufferedReader(ZstandardFile(open(path, "rb")), CHUNK)
    return open(path, "rb")


def lines(file: BinaryIO, max_bytes: int) -> Iterator[bytes | Dropped]:
    """The lines of a file; of a longer one than max_bytes no more than that is ever held."""
    while line := file.readline(max_bytes + 1):
        if len(line) <= max_bytes or line.endswith(b"\n"):
            yield line
        else:
            rest = skip_line(file)
            yield Dropped("reading.long_line", f"{len(line) + rest} bytes, allowed at most {max_bytes}")


def skip_line(file: BinaryIO) -> int:
    """Reads to the end of the line; its bytes."""
    skipped = 0
    while part := file.readline(CHUNK):
        skipped += len(part)
        if part.endswith(b"\n"):
            break
    return skipped


def opened_lines(path: Path | str, max_bytes: int) -> Iterator[bytes | Dropped]:
    """The lines of a file, .gz or .zst; a damaged end is one Dropped."""
    with opened(path) as file:
        try:
            yield from lines(file, max_bytes)
        except DAMAGE as error:
            yield damaged(path, error)


def damaged(path: Path | str, error: Exception) -> Dropped:
    """What a file lost."""
    return Dropped("reading.damaged_file", f"{Path(path).name}: {str(error)[:200]}; what follows is lost")


def whole_content(path: Path | str, max_bytes: int) -> bytes | Dropped:
    """All bytes of a file, unless they are more than max_bytes or damaged."""
    with opened(path) as file:
        try:
            content = file.read(max_bytes + 1)
        except DAMAGE as error:
            return damaged(path, error)
    if len(content) > max_bytes:
        return Dropped("reading.long_file", f"{Path(path).name}: more than {max_bytes} bytes")
    return content

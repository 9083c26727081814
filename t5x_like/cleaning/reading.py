"""Documents from files, whatever is in them: what cannot be read comes as a Dropped, to be counted."""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from t5x_like.cleaning.steps import Document, Dropped

CHUNK = 1 << 20


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
    """The lines of a file or .gz file; a damaged end is one Dropped."""
    with (gzip.open if str(path).endswith(".gz") else open)(path, "rb") as file:
        try:
            yield from lines(file, max_bytes)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            yield Dropped("reading.damaged_file", f"{Path(path).name}: {error}; what follows is lost")


def text_lines(path: Path | str, max_bytes: int = 20_000_000) -> Iterator[Document | Dropped]:
    """A document per line of a text file; empty lines are skipped."""
    for number, line in enumerate(opened_lines(path, max_bytes), 1):
        if isinstance(line, Dropped):
            yield line
        elif line.strip():
            yield {"text": line.rstrip(b"\r\n"), "id": f"{Path(path).name}:{number}"}


def jsonl(path: Path | str, max_bytes: int = 20_000_000) -> Iterator[Document | Dropped]:
    """A document per line of a JSON-lines file, with its fields; `id` is file and line where it has none."""
    for number, line in enumerate(opened_lines(path, max_bytes), 1):
        if isinstance(line, Dropped):
            yield line
        elif line.strip():
            yield json_document(line, f"{Path(path).name}:{number}")


def json_document(line: bytes, name: str) -> Document | Dropped:
    """The object of one line."""
    try:
        document = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return Dropped("reading.invalid_utf8", f"{name}: {error.reason} at byte {error.start}")
    except (ValueError, RecursionError) as error:
        return Dropped("reading.invalid_json", f"{name}: {str(error)[:80]}")
    if not isinstance(document, dict):
        return Dropped("reading.invalid_json", f"{name}: a {type(document).__name__} in place of an object")
    return {"id": name} | document

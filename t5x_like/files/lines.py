"""Lines of UTF-8 files, one at a time: of texts, and of files of JSON records that only grow, such as metrics.jsonl.

Lines are split at line feeds alone, and a byte order mark at the start of a text is removed. A file of records is repaired at its
end, where a process that was killed left part of a line, and never rewritten.
`str.splitlines` and text mode also split at carriage returns, form feeds, U+0085 and U+2028, which texts contain.
"""

import codecs
import json
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from t5x_like.types import PathLike

MARK = codecs.BOM_UTF8
BLOCK = 2**16  # read at once, to find the last line


def read_lines(path: PathLike) -> Iterator[str]:
    """Yields the lines of a file without their ends.

    Raises:
      ValueError: a line is not UTF-8; the message has the file and the number of the line.
    """
    with open(path, "rb") as file:
        for number, line in enumerate(skip_mark(file), 1):
            yield decode_line(strip_end(line), f"{path}, line {number}")


def skip_mark(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yields the lines of a binary file, the first one without a byte order mark."""
    for number, line in enumerate(lines):
        yield line if number else line.removeprefix(MARK)


def strip_end(line: bytes) -> bytes:
    """Removes the line feed at the end of a line, and a carriage return before it."""
    return line.removesuffix(b"\n").removesuffix(b"\r")


def decode_line(line: bytes, place: str) -> str:
    """Decodes UTF-8.

    Raises:
      ValueError: the line is not UTF-8; the message begins with `place`.
    """
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{place} is not UTF-8 text ({error.reason} at byte {error.start}); convert the file to UTF-8, or leave it out"
        ) from error


def read_records(path: PathLike) -> Iterator[dict[str, Any]]:
    """Yields the JSON objects of a file, whose last line may be cut off; a missing file has none.

    Warns of other lines that are not objects, and skips them.
    """
    if not Path(path).exists():
        return
    bad: list[int] = []
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            record = parse_record(line)
            if record is not None:
                yield record
            elif line.endswith(b"\n"):
                bad.append(number)
    if bad:
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        warnings.warn(f"{path}, line {bad[0]}{more}: skipped, not a JSON object", stacklevel=2)


def parse_record(line: bytes) -> dict[str, Any] | None:
    """The object in a line; None if there is none."""
    try:
        record = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def open_append(path: PathLike) -> IO[str]:
    """Opens a file to append lines, after completing its last line or removing one that was cut off."""
    with open(path, "ab+") as file:
        start = start_of_last_line(file)
        file.seek(start)
        rest = file.read()
        if rest and parse_record(rest) is not None:
            file.write(b"\n")  # only the line feed is missing
        elif rest:
            file.truncate(start)
    return open(path, "a", encoding="utf-8")


def start_of_last_line(file: IO[bytes]) -> int:
    """The position after the last line feed of a file."""
    position = file.seek(0, 2)
    while position > 0:
        begin = max(position - BLOCK, 0)
        file.seek(begin)
        found = file.read(position - begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        position = begin
    return 0


def append_record(path: PathLike, record: dict[str, Any]) -> None:
    """Appends one object."""
    with open_append(path) as file:
        file.write(json.dumps(record) + "\n")

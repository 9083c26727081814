"""Lines of UTF-8 text files, one at a time: split at line feeds alone, without the byte order mark of the file.

`str.splitlines` and text mode also split at carriage returns, form feeds, U+0085 and U+2028, which texts contain. Importing this
module loads neither JAX nor NumPy.
"""

import codecs
from collections.abc import Iterable, Iterator

from t5x_like.types import PathLike

MARK = codecs.BOM_UTF8


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

"""Checks the header of a GGUF file before the library `gguf` reads it, which trusts every count in it.

Format (little endian): magic, version (u32), number of tensors and of fields (u64); for each field its name, type (u32) and
value; for each tensor its name, number of dimensions (u32), dimensions (u64), type (u32) and offset (u64). A text is its
length (u64) and bytes; an array the type (u32) and number (u64) of its elements, and these.
"""

import mmap
import struct
from pathlib import Path

STRING, ARRAY = 8, 9
WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes, by type
MAX_ELEMENTS = 5_000_000  # of all arrays together; the library makes several objects for each
MAX_ENTRIES = 1_000_000  # fields and tensors
MAX_DIMENSIONS = 4


class Cursor:
    """A position in the bytes of a file that never leaves them."""

    def __init__(self, data: mmap.mmap):
        self.data, self.position = data, 0

    def skip(self, count: int) -> int:
        """Moves on by `count` bytes; returns the old position.

        Raises:
          ValueError: the file is shorter.
        """
        start = self.position
        self.position += count
        if self.position > len(self.data):
            raise ValueError(f"the header needs {self.position} bytes, but the file has {len(self.data)}")
        return start

    def number(self, form: str) -> int:
        """Reads a number of the `struct` format "I" or "Q"."""
        return struct.unpack_from(f"<{form}", self.data, self.skip(struct.calcsize(form)))[0]

    def skip_value(self, kind: int) -> int:
        """Moves behind a value; returns its number of elements.

        Raises:
          ValueError: an unknown type, or an array of arrays.
        """
        if kind == STRING:
            self.skip(self.number("Q"))
            return 1
        if kind != ARRAY:
            self.skip(width(kind))
            return 1
        inner, count = self.number("I"), self.number("Q")
        if inner == ARRAY:
            raise ValueError("arrays of arrays are not supported")
        if inner == STRING:
            for _ in range(min(count, MAX_ELEMENTS)):
                self.skip(self.number("Q"))
        else:
            self.skip(width(inner) * count)
        return count


def width(kind: int) -> int:
    """The bytes of a number of some type; raises ValueError if the type is unknown."""
    if kind not in WIDTHS:
        raise ValueError(f"a field has the unknown type {kind}")
    return WIDTHS[kind]


def check(path: Path) -> None:
    """Checks that all counts fit into the file.

    Raises:
      ValueError: some do not, the file is not GGUF or of another byte order, or it has too many elements in arrays.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        cursor = Cursor(data)
        if data[cursor.skip(4) : 4] != b"GGUF":
            raise ValueError("it does not begin with GGUF")
        if (version := cursor.number("I")) not in (2, 3):
            raise ValueError(f"version {version} is not supported, only 2 and 3, little endian")
        tensors, fields, elements = cursor.number("Q"), cursor.number("Q"), 0
        if tensors + fields > MAX_ENTRIES:
            raise ValueError(f"it has {tensors} tensors and {fields} fields, more than {MAX_ENTRIES}")
        for _ in range(fields):
            cursor.skip(cursor.number("Q"))
            elements += cursor.skip_value(cursor.number("I"))
            if elements > MAX_ELEMENTS:
                raise ValueError(f"its arrays have more than {MAX_ELEMENTS} elements")
        for _ in range(tensors):
            cursor.skip(cursor.number("Q"))
            if (dimensions := cursor.number("I")) > MAX_DIMENSIONS:
                raise ValueError(f"a tensor has {dimensions} dimensions")
            cursor.skip(8 * dimensions + 12)

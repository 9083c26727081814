"""Plain-text tables for the terminal."""

from collections.abc import Iterable, Mapping
from typing import Any


def aligned(rows: Iterable[Mapping[str, Any]]) -> str:
    """A plain table, its columns as wide as they need to be."""
    rows = [{name: str(value) for name, value in row.items()} for row in rows]
    widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in rows[0]}
    lines = [{name: name for name in widths}, *rows]
    return "\n".join("  ".join(line[name].rjust(width) for name, width in widths.items()) for line in lines)

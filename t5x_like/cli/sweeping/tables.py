"""Plain-text tables for the terminal."""

from collections.abc import Iterable, Mapping
from typing import Any


def format_table(rows: Iterable[Mapping[str, Any]]) -> str:
    """Formats rows, {column: value}, as text with right-aligned columns."""
    cells = [{name: str(value) for name, value in row.items()} for row in rows]
    widths = {name: max(len(name), *(len(row[name]) for row in cells)) for name in cells[0]}
    lines = [{name: name for name in widths}, *cells]
    return "\n".join("  ".join(line[name].rjust(width) for name, width in widths.items()) for line in lines)

"""Files by path or glob."""

import glob
import itertools
import os
from collections.abc import Sequence
from pathlib import Path


def match_files(split: str, patterns: Sequence[str]) -> list[str]:
    """Returns the files that match any of the patterns, sorted, without duplicates.

    Raises:
      ValueError: a pattern matches no file; the message lists the files of its folder.
    """
    matches: set[str] = set()
    for pattern in patterns:
        files = [path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path)]
        if not files:
            raise ValueError(f"split {split!r}: {pattern!r} matches no file; {list_folder(pattern)}")
        matches.update(files)
    return sorted(matches)


def list_folder(pattern: str) -> str:
    """Describes the content of a pattern's folder, for an error message."""
    if os.path.isdir(pattern):
        return f"it is a folder; give a glob, such as '{pattern.rstrip('/')}/*.jsonl'"
    fixed = itertools.takewhile(lambda part: not glob.has_magic(part), Path(pattern).absolute().parent.parts)
    folder = Path(*fixed)
    if not folder.is_dir():
        return f"the folder {folder} does not exist"
    names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    listing = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return f"{folder} holds {listing or 'nothing'}"

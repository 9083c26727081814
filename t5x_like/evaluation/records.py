"""Records of evaluations on disk, FOLDER/TASK/STEP.json: a file is there whole, or not at all."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def path_of(folder, task: str, step: int) -> Path:
    """Where the record of a task at a step stands."""
    return Path(folder) / task / f"{step}.json"


def read(path: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The record of a file, if it is there and was made with these settings."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return record if record["settings"] == plain(settings) else None


def prepare(path: Path, record: Mapping[str, Any]) -> Path:
    """Writes a record beside its place, to be moved there by `put`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(plain(record), ensure_ascii=False, indent=1) + "\n"
    temporary = path.with_suffix(".json.tmp")
    temporary.write_bytes(text.encode("utf-8", errors="replace"))
    return temporary


def put(temporary: Path) -> None:
    """Moves a prepared record to its place."""
    os.replace(temporary, temporary.with_suffix(""))


def plain(value: Any) -> Any:
    """A value as JSON has it; what it has no form for, as text."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(one) for one in value]
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    return value if value is None or isinstance(value, str | int | float) else str(value)

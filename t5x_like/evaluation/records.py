"""Evaluation records on disk, FOLDER/TASK/STEP.json, written atomically."""

import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from t5x_like.types import PathLike


def record_path(folder: PathLike, task: str, step: int) -> Path:
    """The path of the record of a task at a step."""
    return Path(folder) / task / f"{step}.json"


def read(path: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Reads a record; None if it does not exist, was made with other settings, or with a warning if it is damaged."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return record if record["settings"] == to_json(settings) else None
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        warnings.warn(f"{path} is not a record ({error}); the task is evaluated again", stacklevel=2)
        return None


def write_temporary(path: Path, record: Mapping[str, Any]) -> Path:
    """Writes a record to a temporary file next to `path`; `publish` renames it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(to_json(record), ensure_ascii=False, indent=1) + "\n"
    temporary = path.with_suffix(".json.tmp")
    temporary.write_bytes(text.encode("utf-8", errors="replace"))
    return temporary


def publish(temporary: Path) -> None:
    """Renames a temporary file of `write_temporary` to its record's path."""
    os.replace(temporary, temporary.with_suffix(""))


def to_json(value: Any) -> Any:
    """Converts a value to JSON types; values of other types become strings."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(name): to_json(item) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_json(item) for item in value]
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    return value if value is None or isinstance(value, str | int | float) else str(value)

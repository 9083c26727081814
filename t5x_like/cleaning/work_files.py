"""The temporary files of a cleaning run: one JSON value per line. Unlike a pickle, such a file runs no code when it is read."""

import base64
import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from t5x_like.cleaning.shards import format_json_line, write_atomically
from t5x_like.cleaning.steps import Dropped


def encode(value: Any) -> Any:
    """A sketch or a decision as JSON values; a value of a type that JSON does not have becomes an object that names its type.

    Raises:
      TypeError: a value that is no number, text, bytes, list, tuple, dictionary, NumPy array or Dropped.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode()}
    if isinstance(value, list):
        return [encode(each) for each in value]
    if isinstance(value, tuple):
        return {"tuple": [encode(each) for each in value]}
    if isinstance(value, dict):
        return {"dict": [[encode(key), encode(each)] for key, each in value.items()]}
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return {"array": [value.dtype.str, value.shape, base64.b64encode(value.tobytes()).decode()]}
    if isinstance(value, Dropped):
        return {"dropped": [value.rule, value.detail]}
    raise TypeError(
        f"a step's sketch or decision holds a {type(value).__name__}; use numbers, text, bytes, lists, tuples, dictionaries, "
        "NumPy arrays or Dropped"
    )


def decode_array(parts: list) -> np.ndarray:
    """The array of (dtype, shape, base64)."""
    return np.frombuffer(base64.b64decode(parts[2]), np.dtype(parts[0])).reshape(parts[1])


DECODERS: dict[str, Callable[[Any], Any]] = {
    "bytes": base64.b64decode,
    "tuple": lambda values: tuple(map(decode, values)),
    "dict": lambda items: {decode(key): decode(value) for key, value in items},
    "array": decode_array,
    "dropped": lambda parts: Dropped(*parts),
}


def decode(value: Any) -> Any:
    """The value that `encode` was given."""
    if isinstance(value, list):
        return [decode(each) for each in value]
    if isinstance(value, dict):
        [(kind, content)] = value.items()
        return DECODERS[kind](content)
    return value


@contextlib.contextmanager
def open_values(path: Path) -> Iterator[Callable[[Any], Any]]:
    """A function that appends a JSON value to a file, which appears when it is complete."""
    with write_atomically(path) as file:
        yield lambda value: file.write(format_json_line(value))


def read_values(path: Path) -> Iterator[Any]:
    """The JSON values of a file.

    Raises:
      ValueError: a line is damaged.
    """
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield json.loads(line)
            except ValueError as error:
                raise ValueError(
                    f"{path}, line {number} is damaged ({error}); remove the folder .work above it and run the same command again"
                ) from error

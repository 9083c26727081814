"""A fingerprint of a pipeline: its steps, thresholds, lists and weights, and the source code of this package."""

import dataclasses
import functools
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np


def fingerprint(value: Any) -> str:
    """A hash that is equal in every process, and differs if a field, a list entry, a weight or a line of this package differs."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    for part in encode_parts(value):
        digest.update(f"{len(part)}:".encode() + part)
    return digest.hexdigest()[:32]


def encode_parts(value: Any) -> Iterator[bytes]:
    """The type and all parts of a value as bytes."""
    yield type(value).__qualname__.encode()
    if isinstance(value, np.ndarray):
        yield f"{value.dtype}{value.shape}".encode() + value.tobytes()
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield field.name.encode()
            yield from encode_parts(getattr(value, field.name))
    elif isinstance(value, re.Pattern):
        yield f"{value.flags} {value.pattern}".encode()
    elif isinstance(value, functools.partial):
        yield from encode_parts((value.func, value.args, value.keywords))
    elif isinstance(value, Mapping):
        yield from encode_parts([*value.items()])
    elif isinstance(value, Set):
        yield from encode_parts(sorted(value))
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        yield str(len(value)).encode()
        for each in value:
            yield from encode_parts(each)
    elif callable(value):
        yield f"{value.__module__}.{value.__qualname__}".encode()
        yield from encode_parts(getattr(value, "__self__", None))
    else:
        yield repr(value).encode()

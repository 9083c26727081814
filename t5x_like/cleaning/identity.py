"""A hash of what a pipeline is: its steps, their thresholds, lists and weights, and the code of this package."""

import dataclasses
import functools
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np


def identity(thing: Any) -> str:
    """The same in every process; different where a field, a list's entry, a weight or a line of this package is."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    for part in parts(thing):
        digest.update(f"{len(part)}:".encode() + part)
    return digest.hexdigest()[:32]


def parts(thing: Any) -> Iterator[bytes]:
    """What makes a thing what it is, piece by piece."""
    yield type(thing).__qualname__.encode()
    if isinstance(thing, np.ndarray):
        yield f"{thing.dtype}{thing.shape}".encode() + thing.tobytes()
    elif dataclasses.is_dataclass(thing):
        for field in dataclasses.fields(thing):
            yield field.name.encode()
            yield from parts(getattr(thing, field.name))
    elif isinstance(thing, re.Pattern):
        yield f"{thing.flags} {thing.pattern}".encode()
    elif isinstance(thing, functools.partial):
        yield from parts((thing.func, thing.args, thing.keywords))
    elif isinstance(thing, Mapping):
        yield from parts([*thing.items()])
    elif isinstance(thing, Set):
        yield from parts(sorted(thing))
    elif isinstance(thing, Sequence) and not isinstance(thing, str | bytes):
        yield str(len(thing)).encode()
        for each in thing:
            yield from parts(each)
    elif callable(thing):
        yield f"{thing.__module__}.{thing.__qualname__}".encode()
        yield from parts(getattr(thing, "__self__", None))
    else:
        yield repr(thing).encode()

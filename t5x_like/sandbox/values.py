"""How values travel between a program and its tests: as JSON, and only as builtin types.

None, bool, str, small int and list are themselves. The rest is {type: content}: int (hex), float (hex, so exact), complex, bytes,
bytearray, tuple, set, frozenset, dict (pairs), range, and iterator (generators too), whose items are computed at once.
Instances of subclasses become their builtin base, NumPy's scalars Python's. Nothing else travels; identity does not either.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

MOST_ITEMS = 10**6  # of an iterator
JSON_INT = 2**53
BYTES: Mapping[str, type[bytes] | type[bytearray]] = {"bytes": bytes, "bytearray": bytearray}
COLLECTIONS: Mapping[str, type[tuple] | type[set] | type[frozenset]] = {
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
}


def encode(value: Any) -> Any:
    """Returns the JSON of a value.

    Raises:
      TypeError: the value, or a part of it, cannot travel.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value) if -JSON_INT < value < JSON_INT else {"int": hex(value)}
    if isinstance(value, float):
        return {"float": float.hex(value)}
    if isinstance(value, complex):
        return {"complex": [value.real.hex(), value.imag.hex()]}
    if isinstance(value, list):
        return [encode(item) for item in value]
    if isinstance(value, dict):
        return {"dict": [[encode(key), encode(item)] for key, item in value.items()]}
    for name, kind in BYTES.items():
        if isinstance(value, kind):
            return {name: value.hex()}
    for name, collection in COLLECTIONS.items():
        if isinstance(value, collection):
            return {name: [encode(item) for item in value]}
    return encode_rare(value)


def encode_rare(value: Any) -> Any:
    """Returns the JSON of a range, an iterator or a NumPy scalar.

    Raises:
      TypeError: the value is something else, or the iterator has too many items.
    """
    if isinstance(value, range):
        return {"range": [value.start, value.stop, value.step]}
    if isinstance(value, Iterator):
        items = list(itertools.islice(value, MOST_ITEMS + 1))
        if len(items) > MOST_ITEMS:
            raise TypeError(f"an iterator of more than {MOST_ITEMS} items cannot travel; make it shorter")
        return {"iterator": [encode(item) for item in items]}
    if type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0:
        return encode(value.item())
    raise TypeError(f"a value of type {type(value).__name__} cannot travel; only builtin types of data can")


def decode(message: Any) -> Any:
    """Returns the value of its JSON, made of builtin types only, whoever wrote the JSON.

    Raises:
      ValueError, TypeError: it is not the JSON of a value.
    """
    if isinstance(message, list):
        return [decode(item) for item in message]
    if not isinstance(message, dict):
        return message
    ((name, content),) = message.items()
    return DECODERS[name](content) if name in DECODERS else refuse(name)


def refuse(name: str) -> Any:
    """Raises ValueError for an unknown type."""
    raise ValueError(f"unknown type {name!r} of a value; known are {', '.join(DECODERS)}")


DECODERS: Mapping[str, Callable[[Any], Any]] = {
    "int": lambda text: int(text, 16),
    "float": float.fromhex,
    "complex": lambda parts: complex(*map(float.fromhex, parts)),
    "bytes": bytes.fromhex,
    "bytearray": bytearray.fromhex,
    "tuple": lambda items: tuple(map(decode, items)),
    "set": lambda items: set(map(decode, items)),
    "frozenset": lambda items: frozenset(map(decode, items)),
    "dict": lambda pairs: {decode(key): decode(item) for key, item in pairs},
    "range": lambda numbers: range(*numbers),
    "iterator": lambda items: iter([decode(item) for item in items]),
}


def update(old: Any, new: Any) -> Any:
    """Makes a mutable value equal to `new` in place, with its parts; returns `new` if it cannot."""
    if isinstance(old, list) and isinstance(new, list):
        old[:] = [update(*pair) for pair in zip(old, new, strict=True)] if len(old) == len(new) else new
    elif isinstance(old, dict) and isinstance(new, dict):
        items = {key: update(old[key], item) if key in old else item for key, item in new.items()}
        old.clear()
        old.update(items)
    elif isinstance(old, set) and isinstance(new, set):
        old.clear()
        old.update(new)
    elif isinstance(old, bytearray) and isinstance(new, bytearray):
        old[:] = new
    elif isinstance(old, tuple) and isinstance(new, tuple) and len(old) == len(new):
        for pair in zip(old, new, strict=True):
            update(*pair)
    else:
        return new
    return old

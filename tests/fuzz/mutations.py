"""Changed inputs for the fuzz tests, and the law that they share: an input is read, or refused in one message."""

import copy
import json
import math
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import strategies as st

# Errors that the command line prints as one message. Their raw subclasses do not say which file or field is wrong.
DECLARED = (ValueError, OSError, ImportError)
RAW = (UnicodeError, json.JSONDecodeError, RecursionError)

# Values that no field expects.
STRANGE = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, 0.5, -0.0, 1e308, math.nan, math.inf),
    *("", "0", "nan", "a\nb", "\ufeff", "\u2028", "../up", "/etc/passwd", "a" * 5000, "\x00", "é"),
    *([], [[]], [None], {}, {"": {}}, {"type": "x"}, [1, "a"]),
)
PIECES = (
    b"\n",
    b"\r\n",
    b"\xef\xbb\xbf",
    b"\xff",
    b"\x00",
    b'"',
    b"{",
    b"}",
    b"[",
    b"(",
    b"=",
    b"%",
    b"@",
    b"()",
    b"\\",
    b"..",
)


def outcome(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a call, or the exception if it is a declared error with a message.

    Raises:
      Exception: an error that the command line would not print as one message.
    """
    try:
        return function(*arguments)
    except DECLARED as error:
        if type(error) in RAW or isinstance(error, UnicodeError) or not str(error):
            raise AssertionError(f"{type(error).__name__} reached the caller: {error}") from error
        return error


def bytes_like(seed: bytes) -> st.SearchStrategy[bytes]:
    """Copies of `seed` in which up to four ranges are replaced."""
    piece = st.one_of(st.sampled_from(PIECES), st.binary(max_size=6), st.just(b""))
    edit = st.tuples(st.integers(0, len(seed)), st.sampled_from((0, 0, 1, 4, 30, 10**6)), piece)

    def apply(edits: list[tuple[int, int, bytes]]) -> bytes:
        text = seed
        for start, length, new in edits:
            text = text[:start] + new + text[start + length :]
        return text

    return st.lists(edit, max_size=4).map(apply)


def json_like(seed: Any) -> st.SearchStrategy[Any]:
    """Copies of a JSON value in which up to three values are replaced, removed or added."""
    places = list(paths(seed))
    action = st.one_of(st.sampled_from(STRANGE), st.just(REMOVE), st.integers(-3, 70), st.just(NEST))
    edit = st.tuples(st.sampled_from(places), action, st.sampled_from(("", "extra", "name")))

    def apply(edits: list[tuple[tuple, Any, str]]) -> Any:
        value = copy.deepcopy(seed)
        for path, new, added in edits:
            value = replaced(value, path, new, added)
        return value

    return st.lists(edit, min_size=1, max_size=3).map(apply)


REMOVE, NEST = object(), object()


def paths(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """The path of every value inside a JSON value, and of itself."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from paths(item, (*path, key))


def replaced(value: Any, path: tuple, new: Any, added: str) -> Any:
    """The JSON value with the value at `path` replaced by `new`, or removed; a dictionary may get another key instead."""
    if not path:
        if isinstance(value, dict) and added:
            return value | {added: None if new in (REMOVE, NEST) else new}
        return [value] if new is NEST else value if new is REMOVE else new
    key, *rest = path
    known = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    if key not in known:  # an earlier edit removed it
        return value
    inner = value[key]
    if rest or new is not REMOVE:
        value[key] = replaced(inner, tuple(rest), new, added)
    else:
        del value[key]
    return value

"""Values travel as builtin data: what arrives equals what was sent, and no message makes anything else."""

import collections
import enum
import math
import types

import numpy as np
import pytest

from t5x_like.sandbox import values

LEVEL = enum.IntEnum("LEVEL", "LOW HIGH")
POINT = collections.namedtuple("POINT", "x y")


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, -1, 2**53, -(10**400), 0.1, -0.0, math.inf, 1 + 2.5j, "é\u2028\ud800", b"\xff", range(1, 9, 3)),
        [],
        [1, [2.0, (3, None)], {(1, "a"): {frozenset({1}), 2}}, {"int": "0x1"}],
    ],
)
def test_values_arrive_as_they_are(value):
    arrived = values.decode(values.encode(value))
    assert arrived == value and type(arrived) is type(value) and repr(arrived) == repr(value)
    assert values.decode(values.encode(bytearray(b"ab"))) == bytearray(b"ab")


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (LEVEL.HIGH, 2),
        (POINT(1, 2), (1, 2)),
        (collections.Counter("aab"), {"a": 2, "b": 1}),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
    ],
)
def test_instances_of_subclasses_arrive_as_builtin_ones(value, plain):
    arrived = values.decode(values.encode(value))
    assert arrived == plain and type(arrived) is type(plain)
    assert list(values.decode(values.encode(iter([value])))) == [plain]


@pytest.mark.parametrize("value", [object(), len, type, types, {1: [print]}, Ellipsis, np.zeros(2), iter(int, 1)])
def test_other_values_do_not_travel(value):
    with pytest.raises(TypeError, match="cannot travel"):
        values.encode(value)


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"object": 1},
        {"int": 1},
        {"set": [[1]]},
        {"dict": [[1]]},
        {"bytes": 2**40},
        {"float": "x"},
        {"a": 1, "b": 2},
    ],
)
def test_other_messages_are_no_values(message):
    with pytest.raises((TypeError, ValueError)):
        values.decode(message)


def test_mutable_values_are_updated_in_place_with_their_parts():
    inner, unique, raw = [1], {1}, bytearray(b"a")
    old = [inner, {"k": unique}, (raw,), 1]
    values.update(old, [[1, 2], {"k": {2}, "n": 3}, (bytearray(b"bc"),), "x"])
    assert inner == [1, 2] and unique == {2} and raw == bytearray(b"bc") and old[1]["n"] == 3 and old[3] == "x"

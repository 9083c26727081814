"""Sides of a benchmark run one step at a time, in order and in reverse; one that ends stops the others and is named."""

import sys

import pytest

from benchmarks import turns

TOY = """
import itertools, pathlib, sys
import turns
name, log, last = sys.argv[1], pathlib.Path(sys.argv[2]), int(sys.argv[3])
numbers = itertools.count()
def step():
    number = next(numbers)
    if number == last:
        raise SystemExit(7)
    print("what a library prints")
    with log.open("a") as file:
        file.write(name)
    return 10.0 - number
turns.serve(step, name=name)
"""


def toy(name, log, last=-1):
    return turns.Side([sys.executable, "-c", TOY, name, str(log), str(last)])


def test_sides_take_turns(tmp_path):
    log = tmp_path / "log"
    results = turns.take_turns({"first": toy("a", log), "second": toy("b", log)}, rounds=3)
    assert sorted(log.read_text()[: 2 * turns.WARMUP]) == ["a"] * turns.WARMUP + ["b"] * turns.WARMUP
    assert log.read_text()[2 * turns.WARMUP :] == "abbaab"
    for name, side in results.items():
        assert side.facts == {"name": {"first": "a", "second": "b"}[name], "losses": [10.0, 9.0]}
        assert side.all("loss") == [8.0, 7.0, 6.0] and side.median("loss") == 7.0
        assert all(seconds >= 0 for seconds in side.all("wall") + side.all("cpu"))
        assert side.median("peak_bytes") > 1e6


@pytest.mark.parametrize("last", [0, turns.WARMUP + 1])
def test_a_side_that_ends_is_named(tmp_path, last):
    sides = {"lasting": toy("a", tmp_path / "log"), "ending": toy("b", tmp_path / "log", last)}
    with pytest.raises(SystemExit, match="side 'ending' ended with exit code 7: .*python"):
        turns.take_turns(sides, rounds=9)

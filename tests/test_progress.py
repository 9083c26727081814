"""Progress lines: the time left is that of the steps after the first, which includes compilation."""

import io

import pytest
from rich.console import Console

from t5x_like import progress


@pytest.fixture
def bar(monkeypatch):
    """`bar(first)` prints to `bar.out` and reads the time from `bar.now`."""

    class Clock:
        now, out = 1000.0, io.StringIO()

    monkeypatch.setattr(progress.time, "monotonic", lambda: Clock.now)

    def make(first=0):
        made = progress.ProgressBar("train", 101 + first, first, line_every=-1)
        made.console = Console(file=Clock.out, width=200, soft_wrap=True)
        return made, Clock

    return make


@pytest.mark.parametrize("first", [0, 50])
def test_the_time_left_does_not_count_compilation(bar, first):
    made, clock = bar(first)
    made.advance(first)
    clock.now += 40  # compiles
    made.advance(first + 1)
    for done in range(2, 5):
        clock.now += 2
        made.advance(first + done)
    lines = [line.split(", ")[1].strip() for line in clock.out.getvalue().splitlines()]
    assert lines == ["starting", "first after 0:00:40", "0:03:18 left", "0:03:16 left", "0:03:14 left"]


def test_the_last_line_has_no_time_left(bar):
    made, clock = bar()
    with made:
        made.advance(1)
        clock.now += 3
        made.advance(101)
    assert clock.out.getvalue().splitlines()[-1].startswith("train 101/101, 0:00:00 left")

"""How the time of a function grows with the length of its input."""

import time
from collections.abc import Callable


def seconds(function: Callable[[str], object], text: str) -> float:
    """The time of the process for one call, the best of three."""
    times = []
    for _ in range(3):
        began = time.process_time()
        function(text)
        times.append(time.process_time() - began)
    return min(times)


def is_linear(function: Callable[[str], object], text: str) -> bool:
    """Whether four times the text takes about four times as long: quadratic time would be sixteen times as long."""
    return any(seconds(function, 4 * text) < 10 * seconds(function, text) + 0.002 for _ in range(3))

"""What every benchmark does the same way: interleaved timing, a table, and one JSON object as the last line."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping

import jax


def machine() -> str:
    """The machine a figure was measured on."""
    device = jax.devices()[0]
    name = platform.processor() or platform.machine()
    return f"{os.cpu_count()} cores {name}, {device.platform} {device.device_kind}, jax {jax.__version__}"


def interleaved(
    sides: Mapping[str, Callable[[], None]], rounds: int, warmup: int = 1
) -> dict[str, list[tuple[float, float]]]:
    """(wall, CPU) seconds of each side, called in turn `rounds` times; each call must wait for its own result."""
    for _ in range(warmup):
        for side in sides.values():
            side()
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            wall, cpu = time.perf_counter(), time.process_time()
            side()
            seconds[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return seconds


def spread(values: list[float]) -> dict[str, float]:
    """Median, minimum and maximum."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def show(title: str, rows: Mapping[str, Mapping[str, float | str]]) -> None:
    """A plain table: a row per side, a column per figure."""
    columns = list(next(iter(rows.values())))
    print(f"\n{title}  ({machine()}, load {os.getloadavg()[0]:.1f})")
    print(f"{'':<28}" + "".join(f"{column:>16}" for column in columns))
    for name, row in rows.items():
        cells = (f"{value:>16,.4g}" if isinstance(value, float | int) else f"{value:>16}" for value in row.values())
        print(f"{name:<28}" + "".join(cells))


def finish(**figures) -> None:
    """The last line."""
    print(json.dumps({**figures, "machine": machine()}))

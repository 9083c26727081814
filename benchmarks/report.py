"""Shared parts of the benchmarks: interleaved timing, a table, and one JSON object as the last line of output."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax


def describe_machine() -> str:
    """Returns the cores, processor, device and JAX version that a figure was measured on."""
    device = jax.devices()[0]
    name = platform.processor() or platform.machine()
    return f"{os.cpu_count()} cores {name}, {device.platform} {device.device_kind}, jax {jax.__version__}"


def time_interleaved(
    sides: Mapping[str, Callable[[], Any]], rounds: int, warmup: int = 1
) -> dict[str, list[tuple[float, float]]]:
    """Calls each side in turn, `rounds` times, and returns their (wall, CPU) seconds; a call must wait for its own result."""
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


def summarize(values: Sequence[float]) -> dict[str, float]:
    """Returns the median, minimum and maximum."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def print_table(title: str, rows: Mapping[str, Mapping[str, float | str]]) -> None:
    """Prints a table with one row per side and one column per figure."""
    columns = list(next(iter(rows.values())))
    print(f"\n{title}  ({describe_machine()}, load {os.getloadavg()[0]:.1f})")
    print(f"{'':<28}" + "".join(f"{column:>16}" for column in columns))
    for name, row in rows.items():
        cells = (f"{value:>16,.4g}" if isinstance(value, float | int) else f"{value:>16}" for value in row.values())
        print(f"{name:<28}" + "".join(cells))


def print_json(**figures: Any) -> None:
    """Prints the last line: the figures and the machine, as one JSON object."""
    print(json.dumps({**figures, "machine": describe_machine()}))

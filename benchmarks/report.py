"""Shared parts of the benchmarks: interleaved timing, a table, and one JSON object as the last line of output."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

VECTORS = {"amx_tile": "AMX", "avx512f": "AVX-512", "avx2": "AVX2"}  # flags in /proc/cpuinfo, the widest first


def describe_cpu() -> str:
    """Returns the cores that this process may use, their make and the widest vectors."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    facts = dict(map(str.strip, line.split(":", 1)) for line in lines if ":" in line)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if "model name" not in facts:
        return f"{cores} cores {platform.processor() or platform.machine()}"
    vectors = next((name for flag, name in VECTORS.items() if flag in facts.get("flags", "").split()), "no AVX2")
    return f"{cores} cores {facts['model name']} (family {facts['cpu family']} model {facts['model']}, {vectors})"


def describe_machine() -> str:
    """Returns the cores, processor, device and JAX version that a figure was measured on."""
    device = jax.devices()[0]
    return f"{describe_cpu()}, {device.platform} {device.device_kind}, jax {jax.__version__}"


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


def print_table(title: str, rows: Mapping[str, Mapping[str, float | str]], machine: str | None = None) -> None:
    """Prints a table with one row per side and one column per figure; `machine` is this process's by default."""
    columns = list(next(iter(rows.values())))
    print(f"\n{title}  ({machine or describe_machine()}, load {os.getloadavg()[0]:.1f})")
    print(f"{'':<28}" + "".join(f"{column:>16}" for column in columns))
    for name, row in rows.items():
        cells = (f"{value:>16,.4g}" if isinstance(value, float | int) else f"{value:>16}" for value in row.values())
        print(f"{name:<28}" + "".join(cells))


def print_json(machine: str | None = None, **figures: Any) -> None:
    """Prints the last line: the figures and the machine, as one JSON object."""
    print(json.dumps({**figures, "machine": machine or describe_machine()}))

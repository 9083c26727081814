"""Steps of several programs in turns, one step at a time, in processes that stay alive: a slow phase of the machine meets all.

A side is a program that calls `serve`. It prints one line of JSON when it is ready, with facts about itself; for each line
that it then reads, it runs one step and prints a line of JSON with the step's seconds. This module needs nothing but Python,
so that peers can import it in environments of their own.
"""

import contextlib
import dataclasses
import json
import os
import resource
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Step = Callable[[], float | None]  # waits for its own results; returns its loss, if it has one
WARMUP = 2  # steps before a side is ready: they compile, and allocate the optimizer's state


@dataclasses.dataclass(frozen=True)
class Side:
    """A program that calls `serve`, and the variables that its environment has besides those of this process."""

    command: Sequence[str]
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Turns:
    """What a side printed: its facts, among them the losses of its first steps, and one mapping per turn."""

    facts: Mapping[str, Any]
    steps: Sequence[Mapping[str, Any]]

    def all(self, figure: str) -> list[float]:
        """A figure of every turn: "wall" and "cpu" (seconds), "loss" or "peak_bytes" (resident memory, so far)."""
        return [step[figure] for step in self.steps]

    def median(self, figure: str) -> float:
        """The median of a figure."""
        return statistics.median(self.all(figure))


def serve(step: Step, **facts: Any) -> None:
    """Runs WARMUP steps, prints the facts and the losses of these steps, and runs one more step for each line of input.

    Everything else that the process prints goes to standard error.
    """
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    print(json.dumps(facts | {"losses": [step() for _ in range(WARMUP)]}), file=out, flush=True)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        loss = step()
        seconds = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps(seconds | {"loss": loss, "peak_bytes": peak}), file=out, flush=True)


def take_turns(sides: Mapping[str, Side], rounds: int) -> dict[str, Turns]:
    """Starts all sides, waits until all are ready, and lets each run one step per round: in order, then in reverse, and so on.

    A step's time depends on whose step came before, so no side always follows the same one.

    Raises:
      SystemExit: a side ended.
    """
    with contextlib.ExitStack() as stack:
        processes = {}
        for name, side in sides.items():
            processes[name] = stack.enter_context(start(side))
            stack.callback(processes[name].terminate)
        turns = {name: Turns(read(name, process), []) for name, process in processes.items()}
        order = list(processes.items())
        for number in range(rounds):
            for name, process in reversed(order) if number % 2 else order:
                with contextlib.suppress(BrokenPipeError):  # `read` says that the side has ended
                    process.stdin.write(b"\n")
                turns[name].steps.append(read(name, process))
        return turns


def start(side: Side) -> subprocess.Popen:
    """Starts a side, which can import this module."""
    path = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path} | side.environment
    return subprocess.Popen(side.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, env=environment)


def read(name: str, process: subprocess.Popen) -> dict[str, Any]:
    """Reads a line of JSON."""
    if line := process.stdout.readline():
        return json.loads(line)
    raise SystemExit(f"side {name!r} ended with exit code {process.wait()}: {shlex.join(process.args)}")

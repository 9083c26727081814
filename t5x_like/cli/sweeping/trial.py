"""The process that trains a cell of a sweep, or several as replicas: takes the lock, trains, and notes how it ended."""

import contextlib
import datetime
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from t5x_like.cli.gin import runtime
from t5x_like.cli.gin.runtime import Config
from t5x_like.scaling.sweeps import replicas, trials
from t5x_like.scaling.sweeps.trials import Cell


def use_own_cores() -> None:
    """Keeps this process to the cores that its executor gave it."""
    if cores := os.environ.get("T5X_LIKE_CORES"):
        os.sched_setaffinity(0, [int(core) for core in cores.split(",")])


def train(run_dirs: Sequence[str]) -> int:
    """Trains cells, together where they are several; the exit code is 0 even if another process has them already."""
    every = [trials.read(run_dir) for run_dir in run_dirs]
    with contextlib.ExitStack() as stack:
        free = [cell for cell in every if stack.enter_context(trials.locked(cell.run_dir))]
        if len(free) < len(every):
            print("another process trains here already")
            return 0
        return attempt(every)


def attempt(every: Sequence[Cell]) -> int:
    """One attempt, its beginning and its end noted in every run directory."""
    started = time.monotonic()
    try:
        config = runtime.parse([str(every[-1].run_dir / "cell.gin")])
        facts = circumstances(config, every[-1])
        for cell in every:
            trials.note(cell.run_dir, **facts)
        diverged = train_together(config, every) if len(every) > 1 else train_alone(config)
    except Exception as error:
        fail(every, f"{type(error).__name__}: {error}")
        raise
    seconds = round((time.monotonic() - started) / len(every), 3)
    fail([cell for cell in every if str(cell.run_dir) in diverged], "the loss is no longer a number")
    for cell in (cell for cell in every if str(cell.run_dir) not in diverged):
        done = trials.progress(cell).step == cell.steps
        trials.note(cell.run_dir, outcome=trials.FINISHED if done else trials.STOPPED, seconds=seconds)
    return 1 if diverged else 0


def fail(every: Sequence[Cell], error: str) -> None:
    for cell in every:
        trials.note(cell.run_dir, outcome=trials.FAILED, error=error[:500])


def train_alone(config: Config) -> list[str]:
    """The run as `t5x_like train` has it."""
    config.configured("trainer.train")(config=config.resolved_config())
    return []


def train_together(config: Config, every: Sequence[Cell]) -> list[str]:
    """Cells that differ in learning rate and seed, by one vmapped program; the directories of those that diverged."""
    replicas.check({b.parameter for b in config.bindings if b.selector == "t5x_like.training.trainer:train"})
    members = [replicas.Replica(str(c.run_dir), c.columns["lr"], c.columns["seed"], c.config) for c in every]
    return replicas.train(members, **{name: config.evaluate(f"trainer.train.{name}") for name in replicas.PARAMETERS})


def circumstances(config: Config, cell: Cell) -> dict[str, Any]:
    """What the row of a run has that only its process knows."""
    rows = config.evaluate("trainer.train.train_rows")
    device = jax.devices()[0]
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": f"{len(jax.devices())} x {device.device_kind}",
        "revision": revision(),
        "unique_tokens": min(cell.columns["tokens"], len(rows) * cell.columns["sequence"]),
        "tokenizer": rows.vocabulary.fingerprint,
    }


def revision() -> str:
    """The git revision of this code, "" outside a checkout."""
    folder = Path(__file__).parent
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=folder, capture_output=True, text=True)
    return found.stdout.strip()

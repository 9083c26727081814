"""The process that trains a trial of a sweep, or several as replicas: it takes the lock, trains, and records the outcome."""

import contextlib
import datetime
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from t5x_like import interrupts, locks
from t5x_like.cli.gin import runtime
from t5x_like.cli.gin.runtime import Config
from t5x_like.run_dir import RunDir
from t5x_like.scaling.sweeps import replicas, trials
from t5x_like.scaling.sweeps.trials import Trial


def restrict_cores() -> None:
    """Restricts this process to the cores that its executor assigned."""
    if cores := os.environ.get("T5X_LIKE_CORES"):
        os.sched_setaffinity(0, [int(core) for core in cores.split(",")])


def train(run_dirs: Sequence[str]) -> int:
    """Trains trials, several as replicas. The exit code is 0 also if another process is training one of them."""
    members = [trials.read(run_dir) for run_dir in run_dirs]
    with contextlib.ExitStack() as stack:
        try:
            for trial in members:
                stack.enter_context(locks.hold(RunDir(trial.run_dir).lock, f"trial {trial.run_id}"))
        except locks.LockedError as error:
            print(error)
            return 0
        return run_attempt(members)


def run_attempt(members: Sequence[Trial]) -> int:
    """Makes one attempt and records its start and end in every run directory; returns the exit code."""
    started = time.monotonic()
    try:
        config = runtime.parse([str(members[-1].run_dir / "trial.gin")], folder=Path.cwd())
        facts = environment_facts(config, members[-1])
        for trial in members:
            trials.append_attempt(trial.run_dir, **facts)
        diverged = train_replicas(config, members) if len(members) > 1 else train_one(config)
    except interrupts.Interrupted:
        record_end(members, trials.STOPPED, started)
        raise
    except Exception as error:
        record_failure(members, f"{type(error).__name__}: {error}")
        raise
    record_failure([trial for trial in members if str(trial.run_dir) in diverged], "the loss is not finite")
    record_end([trial for trial in members if str(trial.run_dir) not in diverged], trials.FINISHED, started)
    return 1 if diverged else 0


def record_end(members: Sequence[Trial], outcome: str, started: float) -> None:
    """Records that trials finished or were stopped, and their share of the seconds since `started`."""
    seconds = round((time.monotonic() - started) / max(len(members), 1), 3)
    for trial in members:
        trials.append_attempt(trial.run_dir, outcome=outcome, seconds=seconds)


def record_failure(members: Sequence[Trial], error: str) -> None:
    """Records that trials failed."""
    for trial in members:
        trials.append_attempt(trial.run_dir, outcome=trials.FAILED, error=error[:500])


def train_one(config: Config) -> list[str]:
    """Trains a single trial as `t5x_like train` does."""
    config.bind("trainer.train")(config=config.resolved_config())
    return []


def train_replicas(config: Config, members: Sequence[Trial]) -> list[str]:
    """Trains trials that differ in learning rate and seed by one vmapped program; returns run_dirs of those that diverged."""
    replicas.check_parameters({b.parameter for b in config.bindings if b.selector == "t5x_like.training.trainer:train"})
    runs = [replicas.Replica(str(t.run_dir), t.columns["lr"], t.columns["seed"], t.config) for t in members]
    return replicas.train(runs, **{name: config.evaluate(f"trainer.train.{name}") for name in replicas.PARAMETERS})


def environment_facts(config: Config, trial: Trial) -> dict[str, Any]:
    """The columns of a run that only its process knows: start time, device, revision and data."""
    rows = config.evaluate("trainer.train.train_rows")
    device = jax.devices()[0]
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": f"{len(jax.devices())} x {device.device_kind}",
        "revision": git_revision(),
        "unique_tokens": min(trial.columns["tokens"], len(rows) * trial.columns["sequence"]),
        "tokenizer": rows.vocabulary.fingerprint,
    }


def git_revision() -> str:
    """The git revision of this code, "" outside a checkout."""
    folder = Path(__file__).parent
    result = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=folder, capture_output=True, text=True)
    return result.stdout.strip()

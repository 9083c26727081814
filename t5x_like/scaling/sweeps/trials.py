"""A trial of a sweep: one training run, its directory, and its progress.

Beside what the trainer writes, a run directory holds trial.gin (the resolved configuration), trial.json (`Trial.columns`: the
columns of the run's row that are known before it runs) and attempts.jsonl (one line when a process starts the trial, one when
it ends by itself). The process that trains the trial holds the lock of the run directory, so a crash is detected on any host.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from t5x_like import locks, writers
from t5x_like.files import lines
from t5x_like.run_dir import RunDir
from t5x_like.types import PathLike

WAITING, RUNNING, STOPPED, FAILED, FINISHED = "waiting", "running", "stopped", "failed", "finished"


@dataclasses.dataclass(frozen=True)
class Trial:
    """A run of a sweep.

    `config` is its resolved gin text, `macros` the values that distinguish it from other trials, and `columns` the part of its
    row that is known before it runs.
    """

    run_id: str
    run_dir: Path
    config: str
    macros: Mapping[str, Any]
    columns: Mapping[str, Any]

    @property
    def steps(self) -> int:
        """The number of training steps."""
        return self.columns["steps"]

    def prepare(self) -> None:
        """Writes the files that a process needs to train it; files of earlier attempts stay as they are."""
        self.run_dir.mkdir(parents=True, exist_ok=True)
        (self.run_dir / "trial.gin").write_text(self.config)
        facts = {"run_id": self.run_id, "macros": dict(self.macros), "columns": dict(self.columns)}
        (self.run_dir / "trial.json").write_text(json.dumps(facts, indent=1) + "\n")


def hash_config(config: str) -> str:
    """Returns a hash of a resolved configuration without comments: equal on every machine and in every folder."""
    settings = [line for line in config.splitlines() if line and not line.startswith("#")]
    return hashlib.sha256("\n".join(settings).encode()).hexdigest()[:12]


def read(run_dir: PathLike) -> Trial:
    """Reads a trial from its run directory.

    Raises:
      FileNotFoundError: no sweep prepared this directory.
    """
    run_dir = Path(run_dir)
    if not (run_dir / "trial.json").exists():
        raise FileNotFoundError(
            f"{run_dir / 'trial.json'} does not exist; t5x_like sweep writes it before a trial starts"
        )
    facts = json.loads((run_dir / "trial.json").read_text())
    config = (run_dir / "trial.gin").read_text()
    return Trial(facts["run_id"], run_dir, config, facts["macros"], facts["columns"])


def read_attempts(run_dir: PathLike) -> list[dict[str, Any]]:
    """The lines of attempts.jsonl."""
    return list(lines.read_records(Path(run_dir) / "attempts.jsonl"))


def append_attempt(run_dir: PathLike, **facts: Any) -> None:
    """Appends a line to attempts.jsonl."""
    lines.append_record(Path(run_dir) / "attempts.jsonl", facts)


@dataclasses.dataclass(frozen=True)
class Progress:
    """The progress of a trial: its state, steps done, the last losses, and its error if it failed."""

    state: str
    step: int = 0
    loss: float = math.nan
    eval_loss: float = math.nan
    error: str = ""


def read_progress(trial: Trial) -> Progress:
    """Reads the progress from the run directory, on whichever machine it is trained."""
    records = writers.read_metrics(RunDir(trial.run_dir).metrics)
    step = max((record["step"] for record in records), default=0)
    loss, eval_loss = (
        next((r[name] for r in reversed(records) if name in r), math.nan) for name in ("loss", "eval/loss")
    )
    attempts = read_attempts(trial.run_dir)
    last = attempts[-1] if attempts else {}
    if last.get("outcome") == FINISHED:
        return Progress(FINISHED, step, loss, eval_loss)
    if locks.find_holder(RunDir(trial.run_dir).lock) is not None:
        return Progress(RUNNING, step, loss, eval_loss)
    if last.get("outcome") == FAILED:
        return Progress(FAILED, step, loss, eval_loss, last["error"])
    return Progress(STOPPED if attempts else WAITING, step, loss, eval_loss)

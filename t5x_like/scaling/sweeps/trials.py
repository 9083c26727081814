"""A cell of a sweep: one run, its directory, and what that says of it.

A run directory holds, beside what the trainer writes, cell.gin (the resolved configuration), cell.json (`Cell.columns`, the
part of the run's row that is known before it runs), attempts.jsonl (one line when a process takes the cell up, one when it
ends by itself) and `lock`, held by the process that trains it: so a cell is known to be dead, wherever it died.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from t5x_like import writers
from t5x_like.run_dir import RunDir

WAITING, RUNNING, STOPPED, FAILED, FINISHED = "waiting", "running", "stopped", "failed", "finished"


@dataclasses.dataclass(frozen=True)
class Cell:
    """A run of a sweep: `config` is its resolved gin text, `macros` what sets it apart, `columns` its row as far as known."""

    run_id: str
    run_dir: Path
    config: str
    macros: Mapping[str, Any]
    columns: Mapping[str, Any]

    @property
    def steps(self) -> int:
        return self.columns["steps"]

    def prepare(self) -> None:
        """Writes what a process needs to train it; nothing of an earlier attempt is touched."""
        self.run_dir.mkdir(parents=True, exist_ok=True)
        (self.run_dir / "cell.gin").write_text(self.config)
        facts = {"run_id": self.run_id, "macros": dict(self.macros), "columns": dict(self.columns)}
        (self.run_dir / "cell.json").write_text(json.dumps(facts, indent=1) + "\n")


def run_id(config: str) -> str:
    """Hash of a resolved configuration, its comments left out: the same on every machine and in every folder."""
    lines = [line for line in config.splitlines() if line and not line.startswith("#")]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


def read(run_dir) -> Cell:
    """A cell from its run directory.

    Raises:
      FileNotFoundError: no sweep prepared this directory.
    """
    run_dir = Path(run_dir)
    if not (run_dir / "cell.json").exists():
        raise FileNotFoundError(f"{run_dir / 'cell.json'} is not there; cells are prepared by t5x_like sweep")
    facts = json.loads((run_dir / "cell.json").read_text())
    config = (run_dir / "cell.gin").read_text()
    return Cell(facts["run_id"], run_dir, config, facts["macros"], facts["columns"])


@contextlib.contextmanager
def locked(run_dir) -> Iterator[bool]:
    """Holds the cell's lock, which the system lets go when the process ends in any way; false where another holds it."""
    with open(Path(run_dir) / "lock", "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def is_locked(run_dir) -> bool:
    path = Path(run_dir) / "lock"
    if not path.exists():
        return False
    with locked(run_dir) as free:
        return not free


def attempts(run_dir) -> list[dict]:
    """Lines of attempts.jsonl."""
    return writers.read_records(Path(run_dir) / "attempts.jsonl")


def note(run_dir, **facts) -> None:
    """Adds a line to attempts.jsonl."""
    with open(Path(run_dir) / "attempts.jsonl", "a") as file:
        file.write(json.dumps(facts) + "\n")


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a cell is: its state, steps done, the last losses, and why it failed."""

    state: str
    step: int = 0
    loss: float = math.nan
    eval_loss: float = math.nan
    error: str = ""


def progress(cell: Cell) -> Progress:
    """Read from the run directory, whoever trained it and wherever."""
    records = writers.read_records(RunDir(cell.run_dir).metrics)
    step = max((record["step"] for record in records), default=0)
    loss, eval_loss = (
        next((r[name] for r in reversed(records) if name in r), math.nan) for name in ("loss", "eval/loss")
    )
    tried = attempts(cell.run_dir)
    last = tried[-1] if tried else {}
    if last.get("outcome") == FINISHED:
        return Progress(FINISHED, step, loss, eval_loss)
    if is_locked(cell.run_dir):
        return Progress(RUNNING, step, loss, eval_loss)
    if last.get("outcome") == FAILED:
        return Progress(FAILED, step, loss, eval_loss, last["error"])
    return Progress(STOPPED if tried else WAITING, step, loss, eval_loss)

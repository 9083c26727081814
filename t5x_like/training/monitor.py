"""Monitors the loss of a run, step by step, and handles loss spikes.

    spike   z = (loss - trend) / standard deviation around the trend, over the `window` steps before; a spike if z > `sigmas`.
            The trend is a line fitted to those steps that does not rise (without it this is OLMo's rule, 6 of 128)
    drift   the loss leaves the band around the expected loss (expected_loss.py), by CUSUM (Page 1954) on either side:
            S = max(0, S + (|log loss - log expected| - band) / noise - allowance); an alarm if S > `alarm`

A drift is only reported, as no single batch causes it. What happens at a spike is the monitor's action:

    Log        reports it
    Skip       skips the update of a batch whose loss or gradient norm is a spike, in the compiled step itself
    RollBack   restores a checkpoint from before the spike and skips the batches around it (Chowdhery et al. 2022)

Every alarm is a line of RUN_DIR/alarms.jsonl; a resumed run reads there which batches to skip. The monitor works on finished
steps, while the next one is computed.
"""

import collections
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from t5x_like import writers
from t5x_like.files import lines
from t5x_like.run_dir import RunDir
from t5x_like.training.expected_loss import Curve, Expected
from t5x_like.types import PathLike

WATCHED = ("loss", "grad_norm")
LEAST = 32  # steps that are needed before one can be a spike
STEADY = 0.01  # the least standard deviation, as a share of the mean, for losses that hardly vary


@dataclasses.dataclass(frozen=True)
class Log:
    """Alarms are printed and logged."""


@dataclasses.dataclass(frozen=True)
class Skip:
    """The update of a spike is skipped: parameters and optimizer state stay the same, and the step counts."""


@dataclasses.dataclass(frozen=True)
class RollBack:
    """`patience` spikes in a row, or a non-finite loss, roll the run back to a checkpoint.

    The checkpoint is the newest one at least `before` steps older than the first spike. The batches from `before` that spike
    to `after` the last one are skipped: the run still does all its steps, on later batches. After `most` rollbacks spikes
    are only reported.
    """

    patience: int = 3
    before: int = 4
    after: int = 4
    most: int = 5

    def __post_init__(self):
        for name, least in (("patience", 1), ("before", 0), ("after", 0), ("most", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"RollBack.{name}={getattr(self, name)!r} must be {least} or more")


class RollbackRequested(Exception):
    """Requests the state of step `newest` or earlier, or else the newest one from before the step `spike`."""

    def __init__(self, newest: int, spike: int):
        super().__init__(newest, spike)
        self.newest, self.spike = newest, spike


@dataclasses.dataclass(frozen=True)
class Monitor:
    """How the loss is monitored. `expected` None: spikes only.

    After `new_level` spikes in a row the loss is taken to have a new level.
    """

    action: Log | Skip | RollBack = Log()
    expected: Expected | None = None
    window: int = 128
    sigmas: float = 6.0
    new_level: int = 32
    allowance: float = 0.5
    alarm: float = 8.0

    def __post_init__(self):
        if self.window < LEAST:
            raise ValueError(f"Monitor.window={self.window} must be {LEAST} or more steps, for a standard deviation")
        for name in ("sigmas", "new_level", "alarm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"Monitor.{name}={getattr(self, name)!r} must be positive")

    @property
    def limits_updates(self) -> bool:
        """Whether the compiled step takes limits and skips updates beyond them."""
        return isinstance(self.action, Skip)


class RunMonitor:
    """A monitor applied to one run.

    Args:
      monitor: what to look for and how to act.
      run_dir: the run directory, for alarms.jsonl and metrics.jsonl.
      report: prints a message.
      curve: the expected loss, if any.
      memory: what `memory()` returned when the state that the run resumes from was saved.
    """

    def __init__(
        self,
        monitor: Monitor,
        run_dir: PathLike,
        report: Callable[[str], None],
        curve: Curve | None = None,
        memory: Mapping[str, Any] | None = None,
    ):
        self.monitor, self.report, self.run_dir = monitor, report, RunDir(run_dir)
        self.restore_memory(memory)
        self.rollbacks = [line for line in lines.read_records(self.run_dir.alarms) if line.get("kind") == "roll back"]
        self.curve = curve
        self.drift = self.replay()

    def memory(self) -> dict[str, Any]:
        """The monitor's state as JSON values; a checkpoint keeps it, and `restore_memory` takes it."""
        return {"recent": {name: list(values) for name, values in self.recent.items()}, "spiking": list(self.spiking)}

    def restore_memory(self, memory: Mapping[str, Any] | None) -> None:
        """Restores what `memory` returned; None is the memory of a fresh run."""
        stored = memory or {"recent": {}, "spiking": []}
        self.recent = {name: collections.deque(stored["recent"].get(name, ()), self.monitor.window) for name in WATCHED}
        self.spiking: list[int] = list(stored["spiking"])

    def replay(self) -> "Drift | None":
        """The drift so far, computed from the run's metrics.jsonl."""
        if self.curve is None:
            return None
        drift, before = Drift(dataclasses.replace(self.curve), self.monitor.allowance, self.monitor.alarm), 0
        for record in writers.read_metrics(self.run_dir.metrics):
            if "loss" in record:
                list(drift.add(record["step"], record["step"] - before, record["loss"]))
                before = record["step"]
        return drift

    def limits(self) -> tuple[dict[str, np.float32], ...]:
        """The last argument of the compiled step; () if the step takes none."""
        if not self.monitor.limits_updates:
            return ()
        largest = float(np.finfo(np.float32).max)  # infinite values are skipped from the first step on
        return ({name: np.float32(min(self.limit(name), largest)) for name in WATCHED},)

    def limit(self, name: str) -> float:
        """The largest value of a metric that is not a spike."""
        recent = self.recent[name]
        if len(recent) < LEAST:
            return math.inf
        value_n, count = np.array(recent), len(recent)
        ago_n = centered(count)
        middle, slope = float(value_n.sum()) / count, min(float(ago_n @ value_n / (ago_n @ ago_n)), 0.0)
        rest_n = value_n - middle - slope * ago_n
        spread = math.sqrt(float(rest_n @ rest_n) / count)
        trend = middle + slope * (count + 1) / 2
        return trend + self.monitor.sigmas * max(spread, STEADY * abs(middle))

    def collect(self, done: int, metrics: Mapping[str, Any]) -> Mapping[str, Any]:
        """Checks the (total, count) metrics of a step. Returns those to log: for a skipped update only `skipped`.

        Raises:
          RollbackRequested: the run is to be rolled back.
        """
        values = {name: mean(metrics[name]) for name in WATCHED if name in metrics}
        skipped = "skipped" in metrics and mean(metrics["skipped"]) > 0
        if not skipped and all(map(math.isfinite, values.values())) and values["loss"] <= self.limit("loss"):
            self.spiking = []
            for name, value in values.items():
                self.recent[name].append(value)
            return metrics
        self.handle_spike(done, values, skipped)
        if len(self.spiking) < self.monitor.new_level:
            return {"skipped": metrics["skipped"]} if skipped else metrics
        self.reset_level()
        return metrics

    def reset_level(self) -> None:
        """Starts to learn a new level."""
        self.spiking = []
        for recent in self.recent.values():
            recent.clear()

    def handle_spike(self, done: int, values: Mapping[str, float], skipped: bool) -> None:
        """Reports a spike, the first of several in a row only, and acts on it.

        Raises:
          RollbackRequested: the run is to be rolled back.
        """
        self.spiking.append(done)
        if skipped or len(self.spiking) == 1:
            limits = {f"{name}_limit": self.limit(name) for name in values}
            facts = "  ".join(f"{name} {value:.4g} (limit {self.limit(name):.4g})" for name, value in values.items())
            self.log_alarm(done, "skip" if skipped else "spike", **values, **limits)
            self.report(f"step {done}: spike{', its update is skipped' if skipped else ''}: {facts}")
        action = self.monitor.action
        if not isinstance(action, RollBack) or len(self.rollbacks) >= action.most:
            return
        if not math.isfinite(values["loss"]) or len(self.spiking) >= action.patience:
            raise RollbackRequested(self.spiking[0] - 1 - action.before, self.spiking[0])

    def finish_rollback(self, to: int, memory: Mapping[str, Any] | None = None) -> None:
        """Chooses the batches to skip, after the loop has restored the state of step `to` and its `memory`."""
        action, first, last = self.monitor.action, self.spiking[0], self.spiking[-1]
        assert isinstance(action, RollBack)
        batches = [self.batch_of(max(first - 1 - action.before, to)), self.batch_of(last - 1 + action.after) + 1]
        self.rollbacks.append(self.log_alarm(last, "roll back", to=to, batches=batches))
        self.drift = self.replay()
        self.restore_memory(memory)
        self.report(
            f"step {last}: rolled back to step {to}, skipping batches {batches[0]} to {batches[1] - 1} "
            f"(rollback {len(self.rollbacks)} of at most {action.most})"
        )

    def batch_of(self, update: int) -> int:
        """The number of the stream's batch for an update; both count from 0."""
        for start, stop in union(line["batches"] for line in self.rollbacks):
            if start <= update:
                update += stop - start
        return update

    def compare(self, done: int, count: int, loss: float) -> dict[str, float]:
        """Compares the mean loss of the last `count` steps with the expected one; reports drift, returns metrics to log."""
        if self.drift is None or not math.isfinite(loss):
            return {}
        for side in self.drift.add(done, count, loss):
            middle, low, high = self.drift.curve.band(done, count)
            self.log_alarm(done, "drift", side=side, loss=loss, expected=middle, low=low, high=high)
            self.report(
                f"step {done}: loss {loss:.4f} is {side} the expected loss, {middle:.4f} ({low:.4f} to {high:.4f})"
            )
        return self.drift.scalars(done, count)

    def log_alarm(self, done: int, kind: str, **facts: Any) -> dict[str, Any]:
        """Appends a line to alarms.jsonl and returns it."""
        line = {"step": done, "kind": kind} | facts
        if jax.process_index() == 0:
            lines.append_record(self.run_dir.alarms, line)
        return line


@dataclasses.dataclass
class Drift:
    """CUSUM sums of the distance of a loss from the band around a curve, on either side, in units of its noise."""

    curve: Curve
    allowance: float
    alarm: float
    sums: dict[str, float] = dataclasses.field(default_factory=lambda: {"above": 0.0, "below": 0.0})
    reported: set[str] = dataclasses.field(default_factory=set)

    def add(self, done: int, count: int, loss: float) -> Iterator[str]:
        """Adds the mean loss of the last `count` steps. Yields the sides whose sum has just passed the alarm.

        A side is yielded again only after its sum has been zero.
        """
        self.curve.learn(done, count, loss)
        if not self.curve.is_known(done):
            return
        _, low, high = self.curve.band(done, count)
        if min(low, loss) <= 0:
            return  # a level that was learned can be wrong by more than the loss
        noise = self.curve.noise / math.sqrt(count)
        outside = {"above": math.log(loss / high) / noise, "below": math.log(low / loss) / noise}
        for side, amount in outside.items():
            self.sums[side] = max(0.0, self.sums[side] + amount - self.allowance)
            if self.sums[side] == 0:
                self.reported.discard(side)
            elif self.sums[side] > self.alarm and side not in self.reported:
                self.reported.add(side)
                yield side

    def scalars(self, done: int, count: int) -> dict[str, float]:
        """Metrics to log: the expected loss, its band and the sums; {} while nothing can be compared."""
        if not self.curve.is_known(done):
            return {}
        middle, low, high = self.curve.band(done, count)
        names = {"loss": middle, "low": low, "high": high, "drift_above": self.sums["above"]}
        return {f"expected/{name}": value for name, value in (names | {"drift_below": self.sums["below"]}).items()}


@functools.cache
def centered(count: int) -> np.ndarray:
    """0, 1, ..., count - 1 minus their mean."""
    return np.arange(count) - (count - 1) / 2


def mean(pair: Sequence[Any]) -> float:
    """The mean of a (total, count) pair."""
    return float(pair[0] / max(pair[1], 1e-9))


def union(ranges: Iterator[Sequence[int]]) -> list[tuple[int, int]]:
    """The union of ranges [start, stop), ascending and disjoint."""
    result: list[tuple[int, int]] = []
    for start, stop in sorted((start, stop) for start, stop in ranges):
        if result and start <= result[-1][1]:
            result[-1] = (result[-1][0], max(result[-1][1], stop))
        else:
            result.append((start, stop))
    return result

"""Watches the loss of a run, step by step, and acts on what it sees.

    spike   z = (loss - trend) / standard deviation around it, over the `window` steps before; one where z > `sigmas`. The trend
            is a line through them that does not rise (without it this is the rule of OLMo, 6 of 128)
    drift   the loss leaves the band around what was expected (expected.py), by CUSUM (Page 1954) on either side:
            S = max(0, S + (|log loss - log expected| - band) / noise - allowance); an alarm where S > `alarm`

A drift is said and no more: no single batch is to blame for it. A spike is acted on:

    Log        says so
    Skip       leaves out the update of a batch whose loss or gradient norm is one, in the compiled step itself
    RollBack   goes back to a checkpoint from before it, and on without the batches around it (Chowdhery et al. 2022)

Every alarm is a line of run_dir/alarms.jsonl, which tells a run that is started again which batches are left out. The
arithmetic is on numbers of steps that are over, while the next one is computed.
"""

import collections
import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from t5x_like import writers
from t5x_like.run_dir import RunDir
from t5x_like.training.expected_loss import Curve, Expected

WATCHED = ("loss", "grad_norm")
LEAST = 32  # steps before which nothing is a spike
STEADY = 0.01  # of the mean: the least standard deviation, for losses that hardly move


@dataclasses.dataclass(frozen=True)
class Log:
    """Alarms are said and written down."""


@dataclasses.dataclass(frozen=True)
class Skip:
    """The update of a spike is left out: parameters and optimizer stay as they were, and the step counts."""


@dataclasses.dataclass(frozen=True)
class RollBack:
    """`patience` spikes in a row, or a loss that is no number, send the run back to a checkpoint.

    It is the newest one of `before` steps or more before the first spike. The batches from `before` that spike until `after`
    the last one are then left out: the run still makes all its steps, on later batches. `most` times, then spikes are only
    said.
    """

    patience: int = 3
    before: int = 4
    after: int = 4
    most: int = 5

    def __post_init__(self):
        for name, least in (("patience", 1), ("before", 0), ("after", 0), ("most", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"RollBack.{name}={getattr(self, name)!r}: it is {least} or more")


class GoBack(Exception):
    """Asks the loop for the state of step `newest` or an earlier one, or else for one from before the step of the spike."""

    def __init__(self, newest: int, spike: int):
        super().__init__(newest, spike)
        self.newest, self.spike = newest, spike


@dataclasses.dataclass(frozen=True)
class Monitor:
    """What is watched and what is done. `expected` None: spikes only.

    After `new_level` spikes in a row the level is taken for normal.
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
            raise ValueError(f"Monitor.window={self.window}: a standard deviation takes {LEAST} steps or more")
        for name in ("sigmas", "new_level", "alarm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"Monitor.{name}={getattr(self, name)!r} is not a positive number")

    @property
    def guards(self) -> bool:
        """Whether the compiled step is told what a spike is."""
        return isinstance(self.action, Skip)


class Watch:
    """A monitor at work on one run; `curve` is what is expected of its loss, `say` where messages go."""

    def __init__(self, monitor: Monitor, run_dir, say: Callable[[str], None], curve: Curve | None = None, memory=None):
        self.monitor, self.say = monitor, say
        self.path = RunDir(run_dir).alarms
        self.recall(memory)
        lines = writers.read_records(self.path)
        if lines and jax.process_index() == 0:
            # Without a last line that was cut off, to which the next one would be added.
            self.path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        self.backs = [line for line in lines if line["kind"] == "roll back"]
        self.curve = curve
        self.drift = self.replayed()

    def memory(self) -> dict[str, Any]:
        """What a run that goes on from here has to know, as JSON has it; `recall` takes it."""
        return {"recent": {name: list(values) for name, values in self.recent.items()}, "spiking": list(self.spiking)}

    def recall(self, memory: Mapping[str, Any] | None) -> None:
        """Knows what was known when the state was saved that the run goes on from."""
        kept = memory or {"recent": {}, "spiking": []}
        self.recent = {name: collections.deque(kept["recent"].get(name, ()), self.monitor.window) for name in WATCHED}
        self.spiking: list[int] = list(kept["spiking"])

    def replayed(self) -> "Drift | None":
        """The drift so far, of what the run's metrics.jsonl says."""
        if self.curve is None:
            return None
        drift, before = Drift(dataclasses.replace(self.curve), self.monitor.allowance, self.monitor.alarm), 0
        for record in writers.read_records(RunDir(self.path.parent).metrics):
            if "loss" in record:
                list(drift.add(record["step"], record["step"] - before, record["loss"]))
                before = record["step"]
        return drift

    def limits(self) -> tuple[dict[str, np.float32], ...]:
        """What the compiled step is told beside the batch."""
        if not self.monitor.guards:
            return ()
        largest = float(np.finfo(np.float32).max)  # what is infinite is left out from the first step on
        return ({name: np.float32(min(self.limit(name), largest)) for name in WATCHED},)

    def limit(self, name: str) -> float:
        """The largest value that is no spike."""
        recent = self.recent[name]
        if len(recent) < LEAST:
            return math.inf
        value_n = np.array(recent)
        ago_n = np.arange(len(value_n)) - (len(value_n) - 1) / 2
        middle, slope = value_n.mean(), min(float(ago_n @ value_n / (ago_n @ ago_n)), 0.0)
        spread = np.std(value_n - slope * ago_n)
        trend = middle + slope * (len(value_n) + 1) / 2
        return float(trend + self.monitor.sigmas * max(spread, STEADY * abs(middle)))

    def take_in(self, done: int, metrics: Mapping[str, Any]) -> Mapping[str, Any]:
        """Looks at the (total, count) metrics of a step; gives those that count: of one left out, that it was.

        Raises:
          GoBack: the run is to be rolled back.
        """
        values = {name: mean(metrics[name]) for name in WATCHED if name in metrics}
        skipped = "skipped" in metrics and mean(metrics["skipped"]) > 0
        if not skipped and all(map(math.isfinite, values.values())) and values["loss"] <= self.limit("loss"):
            self.spiking = []
            for name, value in values.items():
                self.recent[name].append(value)
            return metrics
        self.spike(done, values, skipped)
        if len(self.spiking) < self.monitor.new_level:
            return {"skipped": metrics["skipped"]} if skipped else metrics
        self.forget()
        return metrics

    def forget(self) -> None:
        """Another level is to be learned."""
        self.spiking = []
        for recent in self.recent.values():
            recent.clear()

    def spike(self, done: int, values: Mapping[str, float], skipped: bool) -> None:
        """Says it, once of a row of them, and acts on it."""
        self.spiking.append(done)
        if skipped or len(self.spiking) == 1:
            limits = {f"{name}_limit": self.limit(name) for name in values}
            told = "  ".join(f"{name} {value:.4g} (limit {self.limit(name):.4g})" for name, value in values.items())
            self.note(done, "skip" if skipped else "spike", **values, **limits)
            self.say(f"step {done}: spike{', its update is left out' if skipped else ''}: {told}")
        action = self.monitor.action
        if not isinstance(action, RollBack) or len(self.backs) >= action.most:
            return
        if not math.isfinite(values["loss"]) or len(self.spiking) >= action.patience:
            raise GoBack(self.spiking[0] - 1 - action.before, self.spiking[0])

    def went_back(self, to: int, memory: Mapping[str, Any] | None = None) -> None:
        """The loop has restored the state of step `to` and what was known then: chooses the batches to leave out from here."""
        action, first, last = self.monitor.action, self.spiking[0], self.spiking[-1]
        batches = [self.batch_of(max(first - 1 - action.before, to)), self.batch_of(last - 1 + action.after) + 1]
        self.backs.append(self.note(last, "roll back", to=to, batches=batches))
        self.drift = self.replayed()
        self.recall(memory)
        self.say(
            f"step {last}: rolled back to step {to}, and on without batches {batches[0]} to {batches[1] - 1} "
            f"({len(self.backs)} of at most {action.most} times)"
        )

    def batch_of(self, update: int) -> int:
        """The batch of the stream that an update (0 is the first) is made on."""
        for start, stop in merged(line["batches"] for line in self.backs):
            if start <= update:
                update += stop - start
        return update

    def compare(self, done: int, count: int, loss: float) -> dict[str, float]:
        """What was expected of the mean loss of the last `count` steps, for the log; says where it drifts away."""
        if self.drift is None or not math.isfinite(loss):
            return {}
        for side in self.drift.add(done, count, loss):
            middle, low, high = self.drift.curve.band(done, count)
            self.note(done, "drift", side=side, loss=loss, expected=middle, low=low, high=high)
            self.say(
                f"step {done}: loss {loss:.4f} is {side} what was expected, {middle:.4f} ({low:.4f} to {high:.4f})"
            )
        return self.drift.scalars(done, count)

    def note(self, done: int, kind: str, **facts) -> dict[str, Any]:
        """Adds a line to alarms.jsonl."""
        line = {"step": done, "kind": kind} | facts
        if jax.process_index() == 0:
            with open(self.path, "a") as file:
                file.write(json.dumps(line) + "\n")
        return line


@dataclasses.dataclass
class Drift:
    """Sums of how far a loss has been outside the band around a curve, on either side, in units of its noise."""

    curve: Curve
    allowance: float
    alarm: float
    sums: dict[str, float] = dataclasses.field(default_factory=lambda: {"above": 0.0, "below": 0.0})
    said: set[str] = dataclasses.field(default_factory=set)

    def add(self, done: int, count: int, loss: float) -> Iterator[str]:
        """Takes in the mean loss of the last `count` steps; the sides whose sum has just passed the alarm.

        A side is told once, until its sum has been zero again.
        """
        self.curve.learn(done, count, loss)
        if not self.curve.known(done):
            return
        _, low, high = self.curve.band(done, count)
        if min(low, loss) <= 0:
            return  # a level learned on the way can be wrong by more than the loss
        noise = self.curve.noise / math.sqrt(count)
        outside = {"above": math.log(loss / high) / noise, "below": math.log(low / loss) / noise}
        for side, amount in outside.items():
            self.sums[side] = max(0.0, self.sums[side] + amount - self.allowance)
            if self.sums[side] == 0:
                self.said.discard(side)
            elif self.sums[side] > self.alarm and side not in self.said:
                self.said.add(side)
                yield side

    def scalars(self, done: int, count: int) -> dict[str, float]:
        if not self.curve.known(done):
            return {}
        middle, low, high = self.curve.band(done, count)
        names = {"loss": middle, "low": low, "high": high, "drift_above": self.sums["above"]}
        return {f"expected/{name}": value for name, value in (names | {"drift_below": self.sums["below"]}).items()}


def mean(pair) -> float:
    """Of a (total, count) pair."""
    return float(pair[0] / max(pair[1], 1e-9))


def merged(ranges: Sequence) -> list[tuple[int, int]]:
    """The union of ranges [start, stop), ascending and apart."""
    union: list[tuple[int, int]] = []
    for start, stop in sorted(map(tuple, ranges)):
        if union and start <= union[-1][1]:
            union[-1] = (union[-1][0], max(union[-1][1], stop))
        else:
            union.append((start, stop))
    return union

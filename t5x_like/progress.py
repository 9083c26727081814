"""Training progress: a meter that averages metrics and speed between log lines, and a progress bar."""

import dataclasses
import math
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


@dataclasses.dataclass
class Meter:
    """Accumulates the metrics, tokens and seconds of steps; `read` returns their means and resets the meter.

    The clock runs from the end of one step to the end of the next, so call `add` once the step is computed.

    Attributes:
      flops_per_step: model FLOPs of one training step.
      peak_flops: peak FLOP/s of all devices together.
      tasks: names of the entries of per-task metrics.
    """

    flops_per_step: float
    peak_flops: float
    tasks: tuple[str, ...] = ()
    sums: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    _since: float = dataclasses.field(default_factory=time.perf_counter)

    def add(self, metrics: Mapping[str, Any], tokens: int, waited: float) -> None:
        """Adds a computed step: its (total, count) metrics, its tokens, and the seconds it waited for input."""
        now = time.perf_counter()
        self.seconds, self._since = self.seconds + now - self._since, now
        self.steps, self.tokens, self.waited = self.steps + 1, self.tokens + tokens, self.waited + waited
        for name, pair in metrics.items():
            self.sums[name] = self.sums.get(name, 0.0) + np.asarray(pair, np.float64)

    def restart_clock(self) -> None:
        """Excludes the time since the last step, such as evaluation or saving, from the training time."""
        self._since = time.perf_counter()

    def read(self) -> dict[str, float]:
        """Returns the scalars since the last reading and resets; speed/mfu = model FLOP/s over the devices' peak."""
        scalars = mean_metrics(self.sums, self.tasks)
        seconds = max(self.seconds, 1e-9)
        rate = self.flops_per_step * self.steps / seconds
        scalars |= {
            "speed/tokens_per_second": self.tokens / seconds,
            "speed/step_seconds": seconds / max(self.steps, 1),
            "speed/model_flops_per_second": rate,
            "speed/mfu": rate / self.peak_flops,
            "speed/data_wait": self.waited / seconds,
        }
        self.sums, self.steps, self.tokens, self.seconds, self.waited = {}, 0, 0, 0.0, 0.0
        return scalars


def mean_metrics(sums: Mapping[str, np.ndarray], tasks: tuple[str, ...] = ()) -> dict[str, float]:
    """total / count of every metric; a per-task metric becomes `name/task`, for tasks with a positive count."""
    scalars = {name: float(x[0] / max(x[1], 1e-9)) for name, x in sums.items() if x.ndim == 1}
    for name, x in sums.items():
        if x.ndim == 2:
            entries = zip(tasks, x[0], x[1], strict=True)
            scalars |= {f"{name}/{task}": float(total / count) for task, total, count in entries if count > 0}
    return scalars


class ProgressBar:
    """A progress bar on a terminal, otherwise one line every `line_every` seconds. Only the first process prints.

    The time left is computed from the pace after the first step, because that one includes compilation.
    """

    def __init__(self, label: str, total: int, done: int = 0, line_every: float = 10.0) -> None:
        self.console = Console(stderr=True, quiet=jax.process_index() != 0, soft_wrap=True)
        self.label, self.total, self.done, self.text = label, total, done, ""
        self.line_every, self.started, self.printed, self.first = line_every, time.monotonic(), 0.0, done
        self.paced = (done, self.started)  # (done, time) after the first step, from which the pace is measured
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
        )
        live = sys.stderr.isatty() and jax.process_index() == 0
        self.progress = Progress(*columns, console=self.console) if live else None

    def __enter__(self) -> "ProgressBar":
        if self.progress is not None:
            self.progress.start()
            self.task = self.progress.add_task(self.label, total=self.total, completed=self.done, text="")
        return self

    def __exit__(self, *_: object) -> None:
        if self.progress is not None:
            self.progress.stop()
        elif self.done > self.first:
            self._print_line()

    def advance(self, done: int, text: str | None = None) -> None:
        """Sets the progress to `done` of the total; `text` stays until the next one."""
        if self.paced[0] == self.first < done:
            self.paced = (done, time.monotonic())
        self.done, self.text = done, self.text if text is None else text
        if self.progress is not None:
            self.progress.update(self.task, completed=done, text=self.text)
        elif time.monotonic() - self.printed > self.line_every:
            self._print_line()

    def _print_line(self) -> None:
        self.printed = time.monotonic()
        done, since = self.paced
        if self.done > done:
            left = f"{format_duration((self.printed - since) / (self.done - done) * (self.total - self.done))} left"
        else:
            left = f"first after {format_duration(since - self.started)}" if done > self.first else "starting"
        self.console.print(f"{self.label} {self.done}/{self.total}, {left}  {self.text}", highlight=False)

    def message(self, text: str) -> None:
        """Prints a line above the bar."""
        self.console.print(text, highlight=False, markup=False)


def track(items: Iterable, label: str, total: int) -> Iterator:
    """Yields the items and advances a progress bar."""
    with ProgressBar(label, total) as bar:
        for done, item in enumerate(items):
            bar.advance(done)
            yield item
        bar.advance(total)


def format_train_status(scalars: Mapping[str, float]) -> str:
    """The text of the training bar: loss, tokens/s, model FLOP/s, MFU, share of time spent waiting for data."""
    return (
        f"loss {scalars.get('loss', math.nan):.4f}  {scalars['speed/tokens_per_second']:,.0f} tokens/s  "
        f"{format_si(scalars['speed/model_flops_per_second'])}FLOP/s  MFU {scalars['speed/mfu']:.1%}  "
        f"data wait {scalars['speed/data_wait']:.1%}"
    )


def format_rows_report(reports: Mapping[str, Mapping[str, int | float]], name: str = "data") -> str:
    """One line per task: its rows, tokens, dropped and truncated tokens, and packing density."""
    lines = {
        task: ", ".join(f"{key} {format_value(value)}" for key, value in report.items())
        for task, report in reports.items()
    }
    return "\n".join(f"{name} {task}: {line}" if task else f"{name}: {line}" for task, line in lines.items())


def format_value(value: int | float) -> str:
    """An int as a count, a float as a percentage."""
    return f"{value:.1%}" if isinstance(value, float) else f"{value:,}"


def format_si(value: float) -> str:
    """1.23e12 as `1.23 T`."""
    power = min(int(math.log10(value) // 3), 5) if value >= 1 else 0
    return f"{value / 1000**power:.3g} {['', 'k', 'M', 'G', 'T', 'P'][power]}"


def format_duration(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"

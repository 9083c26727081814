"""How training is going: sums of metrics and speed between two lines of the log, and the bar that shows them."""

import dataclasses
import math
import sys
import time
from collections.abc import Iterable, Iterator, Mapping

import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


@dataclasses.dataclass
class Meter:
    """Adds up the metrics, tokens and seconds of steps; `read` gives their means and starts afresh.

    The clock runs from the end of one step to the end of the next, so it may only be read once a step is computed.
    """

    flops_per_step: float
    peak_flops: float  # of all devices together
    tasks: tuple[str, ...] = ()  # of metrics that have an entry for each task
    sums: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    _since: float = dataclasses.field(default_factory=time.perf_counter)

    def add(self, metrics: dict, tokens: int, waited: float) -> None:
        """A step has been computed: its (total, count) metrics, its tokens, and the seconds its input was waited for."""
        now = time.perf_counter()
        self.seconds, self._since = self.seconds + now - self._since, now
        self.steps, self.tokens, self.waited = self.steps + 1, self.tokens + tokens, self.waited + waited
        for name, pair in metrics.items():
            self.sums[name] = self.sums.get(name, 0.0) + np.asarray(pair, np.float64)

    def restart_clock(self) -> None:
        """Evaluation and waiting for a checkpoint are not training time."""
        self._since = time.perf_counter()

    def read(self) -> dict[str, float]:
        """Scalars since the last reading; speed/mfu = model FLOP/s over the devices' peak."""
        scalars = means(self.sums, self.tasks)
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


def means(sums: dict[str, np.ndarray], tasks: tuple[str, ...] = ()) -> dict[str, float]:
    """total / count of every metric; one with an entry for each task is `name/task`, for tasks that counted."""
    scalars = {name: float(x[0] / max(x[1], 1e-9)) for name, x in sums.items() if x.ndim == 1}
    for name, x in sums.items():
        if x.ndim == 2:
            each = zip(tasks, x[0], x[1], strict=True)
            scalars |= {f"{name}/{task}": float(total / count) for task, total, count in each if count > 0}
    return scalars


class Bar:
    """A progress bar on a terminal; elsewhere a line now and then. Only the first process speaks."""

    def __init__(self, what: str, total: int, done: int = 0, line_every: float = 10.0):
        self.console = Console(stderr=True, quiet=jax.process_index() != 0, soft_wrap=True)
        self.what, self.total, self.done, self.text = what, total, done, ""
        self.line_every, self.started, self.spoken, self.first = line_every, time.monotonic(), 0.0, done
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

    def __enter__(self):
        if self.progress is not None:
            self.progress.start()
            self.task = self.progress.add_task(self.what, total=self.total, completed=self.done, text="")
        return self

    def __exit__(self, *_):
        if self.progress is not None:
            self.progress.stop()
        elif self.done > self.first:
            self.line()

    def advance(self, done: int, text: str | None = None) -> None:
        """`done` of the total are done; `text` stays until the next one."""
        self.done, self.text = done, self.text if text is None else text
        if self.progress is not None:
            self.progress.update(self.task, completed=done, text=self.text)
        elif time.monotonic() - self.spoken > self.line_every:
            self.line()

    def line(self) -> None:
        self.spoken = time.monotonic()
        pace = (self.spoken - self.started) / max(self.done - self.first, 1)
        left = clock(pace * (self.total - self.done))
        self.console.print(f"{self.what} {self.done}/{self.total}, {left} left  {self.text}", highlight=False)

    def message(self, text: str) -> None:
        """A line of its own, above the bar."""
        self.console.print(text, highlight=False, markup=False)


def track(items: Iterable, what: str, total: int) -> Iterator:
    """The items, with a bar that advances as they are taken."""
    with Bar(what, total) as bar:
        for done, item in enumerate(items):
            bar.advance(done)
            yield item
        bar.advance(total)


def train_text(scalars: dict[str, float]) -> str:
    """What the training bar says: loss, tokens/s, model FLOP/s, MFU, share of time spent waiting for data."""
    return (
        f"loss {scalars.get('loss', math.nan):.4f}  {scalars['speed/tokens_per_second']:,.0f} tokens/s  "
        f"{si(scalars['speed/model_flops_per_second'])}FLOP/s  MFU {scalars['speed/mfu']:.1%}  "
        f"data wait {scalars['speed/data_wait']:.1%}"
    )


def rows_text(reports: Mapping[str, Mapping[str, int | float]], name: str = "data") -> str:
    """A line for every task's `report`: rows, tokens, what is left out or truncated, how full the rows are."""
    lines = {task: ", ".join(f"{name} {shown(x)}" for name, x in report.items()) for task, report in reports.items()}
    return "\n".join(f"{name} {task}: {line}" if task else f"{name}: {line}" for task, line in lines.items())


def shown(value: int | float) -> str:
    """A count, or a share."""
    return f"{value:.1%}" if isinstance(value, float) else f"{value:,}"


def si(value: float) -> str:
    """1.23e12 as `1.23 T`."""
    power = min(int(math.log10(value) // 3), 5) if value >= 1 else 0
    return f"{value / 1000**power:.3g} {['', 'k', 'M', 'G', 'T', 'P'][power]}"


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"

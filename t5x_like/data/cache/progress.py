"""Progress of a cache build: a bar on a terminal, otherwise a line every few seconds."""

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

SECONDS_PER_LINE = 10.0  # if there is no terminal


class BuildProgress:
    """Counts documents, tokens and tokens per second; `total` is the expected number of documents, None if unknown."""

    def __init__(self, title: str, total: int | None, done: int = 0):
        self.title, self.total, self.documents, self.tokens = title, total, done, 0
        self.started = self.printed = time.monotonic()
        console = Console(stderr=True, soft_wrap=True)
        ahead = (BarColumn(bar_width=20), TimeRemainingColumn()) if total else (SpinnerColumn(),)
        columns = (TextColumn("{task.description}"), *ahead, TimeElapsedColumn(), TextColumn("{task.fields[text]}"))
        self.bar = Progress(*columns, console=console) if sys.stderr.isatty() else None

    def __enter__(self) -> "BuildProgress":
        if self.bar is not None:
            self.bar.start()
            self.line = self.bar.add_task(self.title, total=self.total, completed=self.documents, text="")
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()
        else:
            self.print_line()

    def advance(self, documents: int, tokens: int) -> None:
        """Adds to the counts and updates the display."""
        self.documents, self.tokens = self.documents + documents, self.tokens + tokens
        if self.bar is not None:
            self.bar.update(self.line, completed=self.documents, text=self.text)
        elif time.monotonic() - self.printed > SECONDS_PER_LINE:
            self.print_line()

    @property
    def text(self) -> str:
        """Counts and rate as text."""
        rate = self.tokens / max(time.monotonic() - self.started, 1e-9)
        return f"{self.documents:,} documents, {self.tokens:,} tokens, {rate:,.0f} tokens/s"

    def print_line(self) -> None:
        """Prints the progress to stderr as one line."""
        self.printed = time.monotonic()
        of = f" of {self.total:,} documents" if self.total else ""
        print(f"{self.title}{of}: {self.text}, {self.printed - self.started:,.0f} s", file=sys.stderr, flush=True)

"""How building a cache is going: a bar on a terminal, elsewhere a line now and then."""

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_EVERY = 10.0  # seconds between two lines where there is no terminal


class Speed:
    """Documents and tokens so far, and tokens a second; `total` documents are expected, None where nobody knows."""

    def __init__(self, what: str, total: int | None, done: int = 0):
        self.what, self.total, self.documents, self.tokens = what, total, done, 0
        self.started = self.spoken = time.monotonic()
        console = Console(stderr=True, soft_wrap=True)
        ahead = (BarColumn(bar_width=20), TimeRemainingColumn()) if total else (SpinnerColumn(),)
        columns = (TextColumn("{task.description}"), *ahead, TimeElapsedColumn(), TextColumn("{task.fields[text]}"))
        self.bar = Progress(*columns, console=console) if sys.stderr.isatty() else None

    def __enter__(self) -> "Speed":
        if self.bar is not None:
            self.bar.start()
            self.line = self.bar.add_task(self.what, total=self.total, completed=self.documents, text="")
        return self

    def __exit__(self, *_) -> None:
        if self.bar is not None:
            self.bar.stop()
        else:
            self.speak()

    def advance(self, documents: int, tokens: int) -> None:
        """So many more are done."""
        self.documents, self.tokens = self.documents + documents, self.tokens + tokens
        if self.bar is not None:
            self.bar.update(self.line, completed=self.documents, text=self.text)
        elif time.monotonic() - self.spoken > LINE_EVERY:
            self.speak()

    @property
    def text(self) -> str:
        rate = self.tokens / max(time.monotonic() - self.started, 1e-9)
        return f"{self.documents:,} documents, {self.tokens:,} tokens, {rate:,.0f} tokens/s"

    def speak(self) -> None:
        """A line of its own."""
        self.spoken = time.monotonic()
        of = f" of {self.total:,} documents" if self.total else ""
        print(f"{self.what}{of}: {self.text}, {self.spoken - self.started:,.0f} s", file=sys.stderr, flush=True)

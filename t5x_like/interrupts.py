"""Ctrl-C and SIGTERM: work ends where it can be resumed, and the exit code tells that it was interrupted."""

import contextlib
import dataclasses
import functools
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# A wrapper such as `timeout` signals a process and then its group; a person needs longer to press Ctrl-C again.
REPEAT_SECONDS = 0.25
# How often a signal that came during an import is tried again.
RETRY_SECONDS = 0.05


class Interrupted(KeyboardInterrupt):
    """A signal ended the work. Its text says what was kept and how to resume; `exit_code` is 128 plus the signal's number."""

    def __init__(self, number: int, message: str = "") -> None:
        super().__init__(message)
        self.number, self.exit_code = number, 128 + number


@contextlib.contextmanager
def explain(message: str) -> Iterator[None]:
    """Gives this text to an interrupt of the block that has none."""
    try:
        yield
    except Interrupted as interrupt:
        if not str(interrupt):
            interrupt.args = (message,)
        raise


@dataclasses.dataclass
class Request:
    """The first signal that came, 0 if none, and when."""

    number: int = 0
    seconds: float = 0.0

    def is_repeat(self, number: int) -> bool:
        """Records a signal; whether it is a Ctrl-C after an earlier signal."""
        if not self.number:
            self.number, self.seconds = number, time.monotonic()
            return False
        return number == signal.SIGINT and time.monotonic() - self.seconds > REPEAT_SECONDS


@contextlib.contextmanager
def postpone() -> Iterator[Request]:
    """Postpones Ctrl-C and SIGTERM: the first one is only recorded. A second Ctrl-C is raised.

    Does nothing outside the main thread, which alone receives signals.
    """
    request = Request()

    def handle(number: int, frame: FrameType | None) -> None:
        if request.is_repeat(number):
            raise Interrupted(number)

    with handlers(handle):
        yield request


@contextlib.contextmanager
def program() -> Iterator[None]:
    """Raises `Interrupted` for the first Ctrl-C or SIGTERM; a second Ctrl-C ends the process at once, whatever it is doing.

    A signal during an import is handled when the import has ended: C++ code that is being loaded cannot pass the exception on.

    The main thread runs its handlers between two Python instructions, so a thread watches for the second Ctrl-C: the main
    thread may be compiling, or waiting for a process that has ended.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    request = Request()

    def handle(number: int, frame: FrameType | None) -> None:
        if request.number:
            return
        if is_importing(frame):
            signal.signal(signal.SIGALRM, functools.partial(retry, number))
            signal.setitimer(signal.ITIMER_REAL, RETRY_SECONDS)
            return
        request.is_repeat(number)
        raise Interrupted(number)

    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    previous = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    watcher = threading.Thread(target=watch, args=(reader,), name="interrupts", daemon=True)
    watcher.start()
    try:
        with handlers(handle):
            yield
    finally:
        signal.set_wakeup_fd(previous)
        os.close(writer)
        watcher.join()
        os.close(reader)


@contextlib.contextmanager
def each() -> Iterator[None]:
    """Raises `Interrupted` for every Ctrl-C and SIGTERM, also inside of `program`: for a dialog, which goes on after a Ctrl-C.

    Does nothing outside the main thread, which alone receives signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        raise Interrupted(number)

    watched = signal.set_wakeup_fd(-1)
    try:
        with handlers(handle):
            yield
    finally:
        signal.set_wakeup_fd(watched, warn_on_full_buffer=False)


def retry(number: int, alarm: int, frame: FrameType | None) -> None:
    """Gives an earlier signal to its handler of now, which may be another one by the time an import ends."""
    handler = signal.getsignal(number)
    if callable(handler):
        handler(number, frame)


def is_importing(frame: FrameType | None) -> bool:
    """Whether a frame is inside an import."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


@contextlib.contextmanager
def handlers(handle: object) -> Iterator[None]:
    """Handles SIGNALS in the main thread by a function; the previous handlers are restored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, handle) for number in SIGNALS}  # type: ignore[arg-type]
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def watch(reader: int) -> None:
    """Reads the numbers of signals from a pipe until it is closed; ends the process at a second Ctrl-C."""
    request, announced = Request(), False
    while True:
        waiting = None
        if request.number and not announced:
            waiting = max(0.0, request.seconds + 2 * REPEAT_SECONDS - time.monotonic())
        if not select.select([reader], [], [], waiting)[0]:
            print("stopping; Ctrl-C again ends at once", file=sys.stderr, flush=True)
            announced = True
            continue
        numbers = os.read(reader, 64)
        if not numbers:
            return
        for number in numbers:
            if number in SIGNALS and request.is_repeat(number):
                if sys.stderr.isatty():
                    os.write(2, b"\x1b[?25h\n")  # the cursor, which a progress bar hides
                os._exit(128 + number)

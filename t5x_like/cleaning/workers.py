"""Worker processes that apply a function to items. Ctrl-C is left to the main process, which then ends them."""

import concurrent.futures
import contextlib
import functools
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

Run = Callable[[Callable[[Any, Any], Any], Iterable[Any]], Iterable[Any]]  # see `start`


@contextlib.contextmanager
def start(count: int, value: Any) -> Iterator[Run]:
    """A function that gives function(value, item) of each item, in order; `count` processes work, or this one if it is 1.

    Each process receives the value once.

    Raises:
      RuntimeError: a worker process was killed.
    """
    if count == 1:
        yield lambda function, items: map(functools.partial(function, value), items)
        return
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(count, context, initialize, (value,)) as executor:
        try:
            yield functools.partial(submit, executor)
        except concurrent.futures.BrokenExecutor as error:
            raise RuntimeError(
                "a worker process was killed, perhaps because memory ran out; run the same command with fewer workers to resume"
            ) from error
        except BaseException:
            for worker in multiprocessing.active_children():
                worker.terminate()  # a function writes its files atomically, and may take long
            executor.shutdown()  # without cancel_futures: an executor whose workers were ended fails on cancelled tasks
            raise


def submit(
    executor: concurrent.futures.Executor, function: Callable[[Any, Any], Any], items: Iterable[Any]
) -> Iterable[Any]:
    """Submits a function of each item. The workers, which this starts, inherit that Ctrl-C is left to this process."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        futures = [executor.submit(call, function, item) for item in items]
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return (future.result() for future in futures)


_value: Any = None  # of a worker process


def initialize(value: Any) -> None:
    """Sets the value of a worker process and makes the process exit with its parent."""
    global _value
    _value = value
    threading.Thread(target=exit_with_parent, daemon=True).start()


def call(function: Callable[[Any, Any], Any], item: Any) -> Any:
    """Calls a function of the worker's value."""
    return function(_value, item)


def exit_with_parent() -> None:
    """Waits for the parent process to end, however it ends, and exits."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

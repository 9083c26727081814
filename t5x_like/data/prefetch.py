"""Makes the next items ahead of time, in a thread."""

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")


class Prefetch(Generic[Result]):
    """Iterates over `make(item)` for each item, with up to `depth` results made ahead; `waited` counts the seconds waited.

    An exception in `make` is raised at the position of its result.
    """

    def __init__(self, make: Callable[[Any], Result], items: Iterable[Any], depth: int = 2):
        self.waited = 0.0
        self._queue: queue.Queue = queue.Queue(depth)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(make, items), name="prefetch", daemon=True)
        self._thread.start()

    def _run(self, make: Callable[[Any], Result], items: Iterable[Any]) -> None:
        try:
            for item in items:
                if not self._put((make(item), None)):
                    return
            self._put((None, StopIteration()))
        except BaseException as error:
            self._put((None, error))

    def _put(self, entry: tuple[Result | None, BaseException | None]) -> bool:
        while not self._closed.is_set():
            try:
                self._queue.put(entry, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def __iter__(self) -> Iterator[Result]:
        return self

    def __next__(self) -> Result:
        start = time.perf_counter()
        value, error = self._queue.get()
        self.waited += time.perf_counter() - start
        if error is not None:
            self._put((None, error))
            raise error
        return value

    def close(self) -> None:
        """Stops the thread and waits for it."""
        self._closed.set()
        self._thread.join()

"""Makes what is needed next ahead of time, in a thread."""

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any


class Prefetch:
    """Iterates over `make(item)` for each item, up to `depth` of them made ahead; `waited` counts the seconds a consumer waited.

    An exception in `make` is raised where its result would have come.
    """

    def __init__(self, make: Callable[[Any], Any], items: Iterable, depth: int = 2):
        self.waited = 0.0
        self._ready: queue.Queue = queue.Queue(depth)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(make, items), name="prefetch", daemon=True)
        self._thread.start()

    def _run(self, make: Callable, items: Iterable) -> None:
        try:
            for item in items:
                if not self._put((make(item), None)):
                    return
            self._put((None, StopIteration()))
        except BaseException as error:
            self._put((None, error))

    def _put(self, entry) -> bool:
        while not self._closed.is_set():
            try:
                self._ready.put(entry, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def __iter__(self) -> Iterator:
        return self

    def __next__(self):
        start = time.perf_counter()
        value, error = self._ready.get()
        self.waited += time.perf_counter() - start
        if error is not None:
            self._put((None, error))
            raise error
        return value

    def close(self) -> None:
        """Stops the thread and waits for it."""
        self._closed.set()
        self._thread.join()

"""Processes that tokenize: each loads the vocabulary alone, without TensorFlow, and ends with the process that asked.

Started as a program: python -m t5x_like.data.cache.pool DESCRIPTOR FOLDER
"""

import collections
import multiprocessing
import os
import queue
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeVar

from t5x_like.data.cache.tokenizing import BadDocument, Texts, Tokens, tokenized
from t5x_like.data.tokenizers import loading

Item = TypeVar("Item")
AHEAD = 2  # items in hand for every process


def all_tokenized(features: dict[str, Texts], vocabulary) -> dict[str, Tokens]:
    """The ids of all features of some documents."""
    return {name: tokenized(name, texts, vocabulary) for name, texts in features.items()}


class Pool:
    """Processes with the vocabulary of a folder; to be used in a `with`."""

    def __init__(self, folder: Path, workers: int):
        self.folder, self.workers = folder, workers

    def __enter__(self) -> "Pool":
        self.idle: queue.SimpleQueue[Connection] = queue.SimpleQueue()
        self.connections, self.processes = [], []
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "TOKENIZERS_PARALLELISM": "false",
        }
        for _ in range(self.workers):
            ours, theirs = multiprocessing.Pipe()
            command = [sys.executable, "-m", __name__, str(theirs.fileno()), str(self.folder)]
            self.processes.append(subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environment))
            theirs.close()
            self.connections.append(ours)
            self.idle.put(ours)
        return self

    def __exit__(self, *_) -> None:
        for connection in self.connections:
            connection.close()
        for process in self.processes:
            process.wait()

    def ask(self, features: dict[str, Texts]) -> dict[str, Tokens]:
        """What a process makes of texts.

        Raises:
          BadDocument: a text that cannot be tokenized.
          RuntimeError: the process died.
        """
        connection = self.idle.get()
        try:
            connection.send(features)
            answer = connection.recv()
        except (EOFError, ConnectionError) as error:
            raise RuntimeError(
                "a tokenizing process died, perhaps for want of memory; look at its messages above, or use fewer --workers"
            ) from error
        finally:
            self.idle.put(connection)
        if isinstance(answer, BadDocument):
            raise answer
        return answer

    def map(self, items: Iterable[Item], texts: Callable[[Item], dict]) -> Iterator[tuple[Item, Callable]]:
        """The items in order, each with a function that gives its tokens; some are worked on ahead."""
        waiting: collections.deque = collections.deque()
        with ThreadPoolExecutor(self.workers) as threads:
            for item in items:
                waiting.append((item, threads.submit(self.ask, texts(item)).result))
                if len(waiting) > AHEAD * self.workers:
                    yield waiting.popleft()
            yield from waiting


def work(connection: Connection, folder: str) -> None:
    """Answers until the other side is gone."""
    vocabulary = loading.load(folder)
    while True:
        try:
            features = connection.recv()
        except (EOFError, ConnectionError):
            return
        try:
            answer = all_tokenized(features, vocabulary)
        except BadDocument as error:
            answer = error
        try:
            connection.send(answer)
        except ConnectionError:
            return


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that asked hears it, and then the pipe closes
    work(Connection(int(sys.argv[1])), sys.argv[2])

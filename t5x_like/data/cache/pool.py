"""A pool of tokenizing processes. Each loads only the vocabulary, without TensorFlow, and ends with its parent.

The worker program: python -m t5x_like.data.cache.pool DESCRIPTOR FOLDER
"""

import collections
import multiprocessing
import os
import queue
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeVar

from t5x_like.data.cache.tokenizing import BadDocument, Texts, Tokens, tokenize
from t5x_like.data.tokenizers import loading
from t5x_like.types import Vocabulary

Item = TypeVar("Item")
ITEMS_PER_WORKER = 2  # submitted ahead


def tokenize_features(features: dict[str, Texts], vocabulary: Vocabulary) -> dict[str, Tokens]:
    """Tokenizes all features of some documents.

    Raises:
      BadDocument: a text cannot be tokenized.
    """
    return {name: tokenize(name, texts, vocabulary) for name, texts in features.items()}


class TokenizerPool:
    """Processes that load the vocabulary in `folder`; a context manager."""

    def __init__(self, folder: Path, workers: int):
        self.folder, self.workers = folder, workers

    def __enter__(self) -> "TokenizerPool":
        self.idle: queue.SimpleQueue[Connection] = queue.SimpleQueue()
        self.connections: list[Connection] = []
        self.processes: list[subprocess.Popen] = []
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "TOKENIZERS_PARALLELISM": "false",
        }
        for _ in range(self.workers):
            ours, theirs = multiprocessing.Pipe()
            command = [sys.executable, "-m", __name__, str(theirs.fileno()), str(self.folder)]
            # In a group of its own: Ctrl-C reaches only this process, which then closes the pipe.
            self.processes.append(
                subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environment, process_group=0)
            )
            theirs.close()
            self.connections.append(ours)
            self.idle.put(ours)
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self.connections:
            connection.close()
        for process in self.processes:
            process.wait()

    def tokenize(self, features: dict[str, Texts]) -> dict[str, Tokens]:
        """`tokenize_features` in one of the processes.

        Raises:
          BadDocument: a text cannot be tokenized.
          RuntimeError: the process died.
        """
        connection = self.idle.get()
        try:
            connection.send(features)
            answer = connection.recv()
        except (EOFError, ConnectionError) as error:
            raise RuntimeError(
                "a tokenizing process died, possibly for lack of memory; see its messages above, or use fewer --workers"
            ) from error
        finally:
            self.idle.put(connection)
        if isinstance(answer, BadDocument):
            raise answer
        return answer

    def map(self, items: Iterable[Item], texts: Callable[[Item], dict]) -> Iterator[tuple[Item, Callable]]:
        """Yields the items in order, each with a function that returns its tokens; some are submitted ahead."""
        pending: collections.deque = collections.deque()
        with ThreadPoolExecutor(self.workers) as threads:
            for item in items:
                pending.append((item, threads.submit(self.tokenize, texts(item)).result))
                if len(pending) > ITEMS_PER_WORKER * self.workers:
                    yield pending.popleft()
            yield from pending


def serve(connection: Connection, folder: str) -> None:
    """Answers requests until the parent closes the connection."""
    vocabulary = loading.load(folder)
    while True:
        try:
            features = connection.recv()
        except (EOFError, ConnectionError):
            return
        answer: dict[str, Tokens] | BadDocument
        try:
            answer = tokenize_features(features, vocabulary)
        except BadDocument as error:
            answer = error
        try:
            connection.send(answer)
        except ConnectionError:
            return


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])), sys.argv[2])

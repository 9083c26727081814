"""Scores answers with the verifiers of reasoning-gym, for tasks with more than one right answer."""

import contextlib
import functools
import json
import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

from t5x_like.sandbox import runner
from t5x_like.sandbox.candidate import Failure
from t5x_like.text_metrics import execution
from t5x_like.text_metrics.pairs import check_pairs, percent

SECONDS = 10.0  # for an answer
MEGABYTES = 2048
PROGRAM = """
import reasoning_gym

entries = reasoning_gym.create_dataset({dataset!r}, size={size!r}, seed={seed!r}, **{options!r})


def score(entry, text):
    return float(entries.score_answer(answer=text, entry=entry))
"""


def import_gym() -> ModuleType:
    """The package reasoning_gym.

    Raises:
      ImportError: it, or a package it needs, is not installed.
    """
    try:
        import reasoning_gym
    except ImportError as error:
        raise ImportError(
            f"reasoning-gym cannot be imported ({error}); install it with: pip install reasoning-gym, or, if its pinned "
            "packages conflict: pip install reasoning-gym --no-deps, and then the packages it asks for"
        ) from error
    return reasoning_gym


def create_dataset(name: str, size: int, seed: int, options: Mapping | None = None) -> Any:
    """Creates a procedural dataset of reasoning-gym; entry i depends only on the arguments.

    Raises:
      ValueError: an unknown name, or options that the dataset refuses.
    """
    package = import_gym()
    if name not in package.factory.DATASETS:
        known = ", ".join(sorted(package.factory.DATASETS))
        raise ValueError(f"dataset={name!r} is not a dataset of reasoning-gym; known are {known}")
    try:
        return package.create_dataset(name, size=size, seed=seed, **(options or {}))
    except (TypeError, AssertionError) as error:
        raise ValueError(f"dataset={name!r} refuses options={dict(options or {})}: {error}") from error


class Verifier:
    """A dataset's verifier in a sandbox, because some evaluate a model's answer with Python's `eval`.

    A process serves all answers, and is replaced if an answer ends it or takes longer than SECONDS; such an answer scores 0.

    Raises (at the first answer):
      PermissionError: the system has no namespaces, and `execution.ALLOW` does not allow to run programs without.
    """

    def __init__(self, dataset: str, size: int, seed: int, options: str) -> None:
        self.program = PROGRAM.format(dataset=dataset, size=size, seed=seed, options=json.loads(options))
        self.function: Callable[..., Any] | None = None
        self.close: Callable[[], Any] = lambda: None

    def start(self) -> None:
        """Starts the process."""
        namespaces = runner.has_namespaces()
        if not namespaces:
            execution.prepare()
        stack = contextlib.ExitStack()
        try:
            self.function = stack.enter_context(
                runner.run_function(self.program, "score", SECONDS, MEGABYTES, namespaces)
            )
        except Failure as error:
            raise RuntimeError(
                f"reasoning-gym does not start in the sandbox ({error}); is it in {sys.prefix}?"
            ) from error
        self.close = weakref.finalize(self, stack.close)

    def score(self, entry: Mapping[str, Any], text: str) -> float:
        """The score of an answer to an entry of the dataset, 0-1."""
        fresh = self.function is None
        if fresh:
            self.start()
        assert self.function is not None
        try:
            score = self.function(entry, text)
        except Failure:
            self.function = None
            self.close()
            # An old process may have ended with the thread that started it.
            return 0.0 if fresh else self.score(entry, text)
        except Exception:
            return 0.0
        return min(float(score), 1.0) if isinstance(score, int | float) and score > 0 else 0.0


@functools.lru_cache(maxsize=1)
def open_verifier(dataset: str, size: int, seed: int, options: str) -> Verifier:
    """The verifier of a dataset; kept, since its start takes seconds."""
    return Verifier(dataset, size, seed, options)


def verify(
    targets: Sequence[int],
    predictions: Sequence[str],
    dataset: str,
    size: int,
    seed: int,
    options: Mapping | None = None,
) -> dict[str, float]:
    """Mean score in percent by the dataset's verifier (0-1 per answer); a target is the index of its entry."""
    entries = create_dataset(dataset, size, seed, options)
    verifier = open_verifier(dataset, size, seed, json.dumps(dict(options or {}), sort_keys=True))
    pairs = zip(*check_pairs(targets, predictions), strict=True)
    return {"verified": percent([verifier.score(entries[int(index)], text) for index, text in pairs])}

"""Scores answers with the verifiers of reasoning-gym, for tasks with more than one right answer."""

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from t5x_like.text_metrics.pairs import check_pairs, percent


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
    pairs = zip(*check_pairs(targets, predictions), strict=True)
    return {
        "verified": percent([entries.score_answer(answer=text, entry=entries[int(index)]) for index, text in pairs])
    }

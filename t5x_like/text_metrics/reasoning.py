"""Answers judged by the verifiers of reasoning-gym, which score what has no single right answer."""

from collections.abc import Mapping, Sequence
from types import ModuleType

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
            f"reasoning-gym is not here ({error}); install it with: pip install reasoning-gym, or, where its pinned "
            "packages are in the way: pip install reasoning-gym --no-deps, and those it then asks for"
        ) from error
    return reasoning_gym


def create_dataset(name: str, size: int, seed: int, options: Mapping | None = None):
    """A procedural dataset of reasoning-gym; entry i is the same for the same arguments.

    Raises:
      ValueError: there is none of that name, or it refuses its options.
    """
    package = import_gym()
    if name not in package.factory.DATASETS:
        known = ", ".join(sorted(package.factory.DATASETS))
        raise ValueError(f"dataset={name!r} is none of reasoning-gym's: {known}")
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
    """Mean score in percent by the dataset's own verifier (0-1 an answer); targets are the numbers of its entries."""
    entries = create_dataset(dataset, size, seed, options)
    pairs = zip(*check_pairs(targets, predictions), strict=True)
    return {
        "verified": percent([entries.score_answer(answer=text, entry=entries[int(index)]) for index, text in pairs])
    }

"""The steps of a task: those whose result is cached, and those behind the cache placeholder, which rows carry out."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import seqio

from t5x_like.data.cache import streaming_steps
from t5x_like.tasks import preprocessors

EOS_STEPS = (seqio.preprocessors.append_eos, seqio.preprocessors.append_eos_after_trim)
# Rows of these classes end both sides with the end of sequence.
ENDED = ("SpanCorruption", "MixtureOfDenoisers", "Denoising")
NOISED = "targets"  # the feature that noise is made from


@dataclasses.dataclass(frozen=True)
class Steps:
    """The `cached` steps; the `noise` behind them (see `streaming_steps`); whether cut examples end with EOS."""

    cached: tuple[Callable, ...]
    noise: dict[str, Any] | None = None
    eos_after_trim: bool = False


def split(task: seqio.Task) -> Steps:
    """The steps of a task. EOS steps behind the placeholder are cached, unless they follow noise.

    Raises:
      ValueError: a step behind the placeholder that is neither seqio's EOS nor our noise, or noise that would be cached.
    """
    steps = list(task.preprocessors)
    places = [i for i, step in enumerate(steps) if isinstance(step, seqio.CacheDatasetPlaceholder)]
    cached, behind = (steps[: places[0]], steps[places[0] + 1 :]) if places else (steps, [])
    for step in cached:
        if is_noise(step):
            raise ValueError(
                f"task {task.name!r}: the noise of step {name_of(step)} would be cached, the same in every epoch; put "
                "seqio.CacheDatasetPlaceholder() before it"
            )
    noise = noise_of(task, behind[0]) if behind and is_noise(behind[0]) else None
    ends = behind[1:] if noise else behind
    for step in ends:
        if step not in EOS_STEPS:
            raise ValueError(
                f"task {task.name!r}: step {name_of(step)} is behind seqio.CacheDatasetPlaceholder, where only append_eos and "
                "append_eos_after_trim of seqio.preprocessors and, before them, span_corruption or objective(...) of "
                "t5x_like.tasks.preprocessors can run; put it before the placeholder to cache its result, or take an objective "
                "of gin_configs/objectives instead"
            )
    if noise is None:
        after_trim = bool(ends) and ends[-1] is seqio.preprocessors.append_eos_after_trim
        return Steps((*cached, *ends), None, after_trim)
    check_ends(task, behind[0], noise["rows"], ends)
    return Steps(tuple(cached), noise)


def check_ends(task: seqio.Task, step: Callable, rows: str, ends: list[Callable]) -> None:
    """Checks that the EOS steps behind noise say what its rows do.

    Raises:
      ValueError: they do not.
    """
    without = [name for name, feature in task.output_features.items() if not feature.add_eos]
    if ends and (rows not in ENDED or len(ends) > 1 or without):
        raise ValueError(
            f"task {task.name!r}: rows of {rows} do not do what step {name_of(ends[-1])} behind {name_of(step)} says"
            + (f" (add_eos=False for {', '.join(without)})" if without else "")
            + "; remove it, or put it before seqio.CacheDatasetPlaceholder to end each document"
        )
    if not ends and unwrap(step) is preprocessors.span_corruption:
        raise ValueError(
            f"task {task.name!r}: rows of {rows} end with the end of sequence; put seqio.preprocessors.append_eos_after_trim "
            "behind span_corruption, as T5 does"
        )


def cached_features(task: seqio.Task) -> dict[str, seqio.Feature]:
    """The features of a task's cache: with noise behind the placeholder only the one that it is made from."""
    features = dict(task.output_features)
    if split(task).noise is None or NOISED not in features:
        return features
    return {NOISED: features[NOISED]}


def is_noise(step: Callable) -> bool:
    """Whether a step is one of our noise preprocessors."""
    return unwrap(step) in (preprocessors.make_rows, preprocessors.span_corruption)


def noise_of(task: seqio.Task, step: Callable) -> dict[str, Any]:
    """The description of a noise step."""
    options = dict(step.keywords) if isinstance(step, functools.partial) else {}
    try:
        make = preprocessors.span_rows(**options) if unwrap(step) is preprocessors.span_corruption else options["make"]
        return streaming_steps.describe_noise(make)
    except (TypeError, ValueError) as error:
        raise ValueError(f"task {task.name!r}: step {name_of(step)}: {error}") from error


def unwrap(step: Callable) -> Callable:
    """The function of a step, which may be a functools.partial."""
    return step.func if isinstance(step, functools.partial) else step


def name_of(step: Callable) -> str:
    """The module and name of a step."""
    function = unwrap(step)
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return f"{getattr(function, '__module__', '?')}.{name}"

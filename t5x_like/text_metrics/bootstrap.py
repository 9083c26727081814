"""Confidence intervals by resampling examples with replacement (Efron 1979; for test sets, Koehn 2004)."""

import math
import statistics
from collections.abc import Callable, Sequence

import numpy as np

from t5x_like.text_metrics.pairs import check_pairs, to_float64


def bootstrap(
    metric: Callable[[Sequence, Sequence], dict[str, float]],
    targets: Sequence,
    outputs: Sequence,
    *,
    level: float = 0.95,
    samples: int = 1000,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """The interval (low, high) of each value of a metric, by percentiles, in its units. Calls the metric `samples` times.

    Examples are resampled one by one; for rank_classification, whose rows are choices, use `mean_interval(rank_choices(...))`.

    Raises:
      ValueError: no examples, or `level` or `samples` out of range.
    """
    targets, outputs = check_pairs(targets, outputs, "outputs")
    check_options(level, samples)
    rng = np.random.default_rng(seed)
    samples_by_name: dict[str, list[float]] = {}
    for _ in range(samples):
        index_n = rng.integers(len(targets), size=len(targets))
        for name, value in metric([targets[i] for i in index_n], [outputs[i] for i in index_n]).items():
            samples_by_name.setdefault(name, []).append(value)
    return {name: central_interval(values, level) for name, values in samples_by_name.items()}


def mean_interval(
    values: Sequence[float] | np.ndarray, *, level: float = 0.95, samples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """The interval (low, high) of the mean of one value per example, in its units.

    Raises:
      ValueError: no values, NaN, or `level` or `samples` out of range.
    """
    values_N = to_float64(values, "values")
    if not len(values_N):
        raise ValueError("values are empty and have no mean; give at least one")
    check_options(level, samples)
    rng = np.random.default_rng(seed)
    means = [values_N[rng.integers(len(values_N), size=len(values_N))].mean() for _ in range(samples)]
    return central_interval(means, level)


def wilson(right: float, count: int, level: float = 0.95) -> tuple[float, float]:
    """The interval (low, high) of a proportion (0-1) of `right` out of `count` (Wilson 1927); it stays within 0-1.

    Raises:
      ValueError: not 0 <= right <= count, or count is 0.
    """
    if not 0 <= right <= count or not count:
        raise ValueError(f"right={right} of count={count} is not a proportion; give 0 <= right <= count and count >= 1")
    check_options(level, 1)
    z2 = statistics.NormalDist().inv_cdf((1 + level) / 2) ** 2
    center, spread = right + z2 / 2, math.sqrt(z2 * (right * (count - right) / count + z2 / 4))
    return max(0.0, (center - spread) / (count + z2)), min(1.0, (center + spread) / (count + z2))


def percent_interval(values: Sequence[float], *, level: float = 0.95) -> tuple[float, float]:
    """The interval (low, high) of a mean: Wilson's if all values are 0 or 100 (they may all be equal), else by bootstrap."""
    values_N = to_float64(values, "values")
    if len(values_N) and np.isin(values_N, (0, 100)).all():
        low, high = wilson(float(values_N.sum()) / 100, len(values_N), level)
        return 100 * low, 100 * high
    return mean_interval(values_N, level=level, samples=2000)


def difference_interval(
    values: Sequence[float], others: Sequence[float], *, level: float = 0.95, samples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """The interval (low, high) of mean(values) - mean(others) over the same examples: paired bootstrap (Koehn 2004)."""
    values, others = check_pairs(values, others, "others")
    return mean_interval(
        to_float64(values, "values") - to_float64(others, "others"), level=level, samples=samples, seed=seed
    )


def central_interval(values: Sequence[float], level: float) -> tuple[float, float]:
    """The quantiles that enclose the central `level` (0-1) of the values."""
    low, high = np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def check_options(level: float, samples: int) -> None:
    """Raises ValueError for options out of range."""
    if not 0 < level < 1:
        raise ValueError(f"level={level} is not between 0 and 1; 0.95 is usual")
    if samples < 1:
        raise ValueError(f"samples={samples} draws nothing; 1000 is usual")

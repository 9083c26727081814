"""Confidence intervals by resampling examples with replacement (Efron 1979; for test sets, Koehn 2004)."""

from collections.abc import Callable, Sequence

import numpy as np

from t5x_like.text_metrics.pairs import numbers, paired


def bootstrap(
    metric: Callable[[Sequence, Sequence], dict[str, float]],
    targets: Sequence,
    outputs: Sequence,
    *,
    level: float = 0.95,
    samples: int = 1000,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """The (low, high) of each value of a metric, by percentiles, in the metric's units; the metric runs `samples` times.

    Examples are drawn one by one: rank_classification, whose rows are choices, needs `mean_interval(ranked(...))`.
    """
    targets, outputs = paired(targets, outputs, "outputs")
    check(level, samples)
    rng = np.random.default_rng(seed)
    made: dict[str, list[float]] = {}
    for _ in range(samples):
        index_n = rng.integers(len(targets), size=len(targets))
        for name, value in metric([targets[i] for i in index_n], [outputs[i] for i in index_n]).items():
            made.setdefault(name, []).append(value)
    return {name: middle(values, level) for name, values in made.items()}


def mean_interval(
    values: Sequence[float], *, level: float = 0.95, samples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """The (low, high) of the mean of one value per example, in its units."""
    values_N = numbers(values, "values")
    if not len(values_N):
        raise ValueError("values are empty, which has no mean; give at least one")
    check(level, samples)
    rng = np.random.default_rng(seed)
    means = [values_N[rng.integers(len(values_N), size=len(values_N))].mean() for _ in range(samples)]
    return middle(means, level)


def middle(values: Sequence[float], level: float) -> tuple[float, float]:
    """What encloses the middle `level` (0-1) of the values."""
    low, high = np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def check(level: float, samples: int) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level={level} is not between 0 and 1; 0.95 is usual")
    if samples < 1:
        raise ValueError(f"samples={samples} draws nothing; 1000 is usual")

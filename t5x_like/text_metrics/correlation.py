"""Correlation of numbers, -100 to 100 as GLUE reports it; NaN where one side is constant, as in scipy."""

from collections.abc import Sequence

import numpy as np

from t5x_like.text_metrics.pairs import numbers, paired


def pearson(targets: Sequence[float], predictions: Sequence[float]) -> dict[str, float]:
    """Linear correlation."""
    return {"pearson": 100 * correlation(*checked(targets, predictions))}


def spearman(targets: Sequence[float], predictions: Sequence[float]) -> dict[str, float]:
    """Correlation of ranks, equal values sharing their mean rank."""
    targets_N, predictions_N = checked(targets, predictions)
    return {"spearman": 100 * correlation(ranks(targets_N), ranks(predictions_N))}


def checked(targets: Sequence, predictions: Sequence) -> tuple[np.ndarray, np.ndarray]:
    targets, predictions = paired(targets, predictions)
    return numbers(targets, "targets"), numbers(predictions, "predictions")


def correlation(x_N: np.ndarray, y_N: np.ndarray) -> float:
    """cov(x, y) / sqrt(var(x) var(y))."""
    if (x_N == x_N[0]).all() or (y_N == y_N[0]).all():
        return float("nan")
    x_N, y_N = x_N - x_N.mean(), y_N - y_N.mean()
    return float(np.clip(x_N @ y_N / np.sqrt((x_N @ x_N) * (y_N @ y_N)), -1, 1))


def ranks(values_N: np.ndarray) -> np.ndarray:
    """1 for the smallest."""
    _, group_N, sizes = np.unique(values_N, return_inverse=True, return_counts=True)
    return (np.cumsum(sizes) - (sizes - 1) / 2)[group_N]

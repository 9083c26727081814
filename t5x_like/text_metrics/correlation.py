"""Correlation of numbers, -100 to 100 as GLUE reports it; NaN if one side is constant, as in SciPy."""

from collections.abc import Sequence

import numpy as np

from t5x_like.text_metrics.pairs import check_pairs, to_float64


def pearson(targets: Sequence[float], predictions: Sequence[float]) -> dict[str, float]:
    """Pearson's linear correlation."""
    return {"pearson": 100 * correlation(*check_numbers(targets, predictions))}


def spearman(targets: Sequence[float], predictions: Sequence[float]) -> dict[str, float]:
    """Spearman's correlation of ranks; equal values share their mean rank."""
    targets_N, predictions_N = check_numbers(targets, predictions)
    return {"spearman": 100 * correlation(ranks(targets_N), ranks(predictions_N))}


def check_numbers(targets: Sequence, predictions: Sequence) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64 [N]; raises ValueError if they do not match or are not numbers."""
    targets, predictions = check_pairs(targets, predictions)
    return to_float64(targets, "targets"), to_float64(predictions, "predictions")


def correlation(x_N: np.ndarray, y_N: np.ndarray) -> float:
    """cov(x, y) / sqrt(var(x) var(y))."""
    if (x_N == x_N[0]).all() or (y_N == y_N[0]).all():
        return float("nan")
    x_N, y_N = x_N - x_N.mean(), y_N - y_N.mean()
    return float(np.clip(x_N @ y_N / np.sqrt((x_N @ x_N) * (y_N @ y_N)), -1, 1))


def ranks(values_N: np.ndarray) -> np.ndarray:
    """The rank of each value, 1 for the smallest; equal values share their mean rank."""
    _, group_N, sizes = np.unique(values_N, return_inverse=True, return_counts=True)
    return (np.cumsum(sizes) - (sizes - 1) / 2)[group_N]

"""Which way a score goes with scale: up, down (inverse scaling), U-shaped, inverted U, or nowhere that noise does not explain.

A score is tested against log scale by Kendall's rank correlation (exact sign of the trend) and by two lines with one break
(Simonsohn 2018): a U is a significant fall before the break and a significant rise after it. A parabola is not proof of a U.
"""

import dataclasses
import enum
from collections.abc import Sequence

import numpy as np
from scipy import stats

LEAST = 5  # sizes for a trend; each side of a U needs 3


class Shape(enum.Enum):
    """What a score does as scale grows."""

    RISES = "rises with scale"
    FALLS = "falls with scale (inverse scaling)"
    U = "U-shaped: falls, then rises"
    INVERTED_U = "inverted U: rises, then falls"
    FLAT = "no trend that noise does not explain"


@dataclasses.dataclass(frozen=True)
class Trend:
    """The shape, Kendall's tau and its p-value, and the place and p-values (before, after) of the best break, if any."""

    shape: Shape
    tau: float
    p: float
    turn: float | None
    sides: tuple[float, float] | None


def trend(scale: Sequence[float], score: Sequence[float], level: float = 0.95) -> Trend:
    """The shape of `score` (larger is more) over `scale` (positive: parameters, FLOPs).

    Raises:
      ValueError: too few sizes, or numbers that are not finite.
    """
    x, y = np.log(np.asarray(scale, float)), np.asarray(score, float)
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("scale must be positive and score finite in every row; leave failed runs out")
    if (count := len(np.unique(x))) < LEAST:
        raise ValueError(f"{count} sizes; a trend needs {LEAST} at least: evaluate more sizes")
    tau, p = stats.kendalltau(x, y)
    limit = 1 - level
    turn, sides, rises = best_break(x, y, limit)
    if turn is not None:
        return Trend(Shape.INVERTED_U if rises else Shape.U, float(tau), float(p), turn, sides)
    if p >= limit or np.isnan(p):
        return Trend(Shape.FLAT, float(tau), float(p), None, None)
    return Trend(Shape.RISES if tau > 0 else Shape.FALLS, float(tau), float(p), None, None)


def best_break(x: np.ndarray, y: np.ndarray, limit: float):
    """(scale at the break, p-values, whether it rises first): opposite slopes, both significant, at the best two-line break."""
    places = np.unique(x)[2:-2]
    found = []
    for place in places:
        before, after = line(x[x <= place], y[x <= place]), line(x[x >= place], y[x >= place])
        if before is None or after is None:
            continue
        error = before[2] + after[2]
        found.append((error, float(np.exp(place)), (before[1], after[1]), before[0] > 0, before[0] * after[0] < 0))
    if not found:
        return None, None, False
    _, place, sides, rises, opposite = min(found)
    # The break was chosen among several: Bonferroni over them.
    if opposite and max(sides) * len(found) < limit:
        return place, sides, rises
    return None, None, False


def line(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float] | None:
    """(slope, its p-value, squared error) of a straight line through three sizes at least."""
    if len(np.unique(x)) < 3:
        return None
    found = stats.linregress(x, y)
    return found.slope, found.pvalue, float(np.sum((y - found.intercept - found.slope * x) ** 2))

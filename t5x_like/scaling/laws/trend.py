"""Classifies how a score changes with scale: rises, falls (inverse scaling), U-shaped, inverted U, or no significant trend.

A score is tested against log scale by Kendall's rank correlation (exact sign of the trend) and by two lines with one break
(Simonsohn 2018): a U is a significant fall before the break and a significant rise after it. A parabola is not proof of a U.
"""

import dataclasses
import enum

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

MIN_SIZES = 5  # sizes for a trend; each side of a U needs 3


class Shape(enum.Enum):
    """How a score changes as scale grows."""

    RISES = "rises with scale"
    FALLS = "falls with scale (inverse scaling)"
    U = "U-shaped: falls, then rises"
    INVERTED_U = "inverted U: rises, then falls"
    FLAT = "no significant trend"


@dataclasses.dataclass(frozen=True)
class Trend:
    """The shape, Kendall's tau and its p-value; for a U, the scale at the break and the p-values (before, after) of its sides."""

    shape: Shape
    tau: float
    p: float
    turn: float | None
    sides: tuple[float, float] | None


@dataclasses.dataclass(frozen=True)
class Line:
    """A least-squares line: its slope, the p-value of the slope, and the sum of squared residuals."""

    slope: float
    p: float
    error: float


def classify_trend(scale: ArrayLike, score: ArrayLike, level: float = 0.95) -> Trend:
    """Classifies `score` (larger is more) over `scale` (positive: parameters, FLOPs), one value per run each.

    Raises:
      ValueError: too few sizes, or values that are not finite.
    """
    x, y = np.log(np.asarray(scale, float)), np.asarray(score, float)
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("scale must be positive and score finite in every row; leave failed runs out")
    if (count := len(np.unique(x))) < MIN_SIZES:
        raise ValueError(f"{count} sizes; a trend needs at least {MIN_SIZES}: evaluate more sizes")
    tau, p = stats.kendalltau(x, y)
    limit = 1 - level
    turn, sides, rises_first = find_break(x, y, limit)
    if turn is not None:
        return Trend(Shape.INVERTED_U if rises_first else Shape.U, float(tau), float(p), turn, sides)
    if p >= limit or np.isnan(p):
        return Trend(Shape.FLAT, float(tau), float(p), None, None)
    return Trend(Shape.RISES if tau > 0 else Shape.FALLS, float(tau), float(p), None, None)


def find_break(x: np.ndarray, y: np.ndarray, limit: float) -> tuple[float | None, tuple[float, float] | None, bool]:
    """Finds the best two-line break and tests that its slopes are opposite and both significant.

    Returns (scale at the break, p-values of the two slopes, whether the first slope is positive), or (None, None, False).
    """
    places = np.unique(x)[2:-2]
    breaks = []
    for place in places:
        before, after = fit_line(x[x <= place], y[x <= place]), fit_line(x[x >= place], y[x >= place])
        if before is None or after is None:
            continue
        opposite = before.slope * after.slope < 0
        breaks.append(
            (before.error + after.error, float(np.exp(place)), (before.p, after.p), before.slope > 0, opposite)
        )
    if not breaks:
        return None, None, False
    _, place, sides, rises_first, opposite = min(breaks)
    # The break was chosen among several: Bonferroni correction.
    if opposite and max(sides) * len(breaks) < limit:
        return place, sides, rises_first
    return None, None, False


def fit_line(x: np.ndarray, y: np.ndarray) -> Line | None:
    """Fits a straight line; None with fewer than three sizes."""
    if len(np.unique(x)) < 3:
        return None
    line = stats.linregress(x, y)
    return Line(line.slope, line.pvalue, float(np.sum((y - line.intercept - line.slope * x) ** 2)))

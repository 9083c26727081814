"""The best learning rate of every width, which muP predicts to be the same."""

import dataclasses
import itertools
from collections.abc import Iterable

import numpy as np


@dataclasses.dataclass(frozen=True)
class BestRate:
    """The minimum of a parabola through the lowest losses over log learning rate."""

    width: float
    rate: float
    loss: float
    at_edge: bool

    def row(self) -> dict[str, str]:
        """The row of a printed table."""
        note = "at the edge of the rates tried; extend the range" if self.at_edge else ""
        return {"width": f"{self.width:.0f}", "best lr": f"{self.rate:.3g}", "loss": f"{self.loss:.4f}", "": note}


def find_best_rates(runs: Iterable[tuple[float, float, float]]) -> list[BestRate]:
    """Finds the best rate of every width with three or more rates, from (width, rate, loss); averages the seeds of a rate."""
    finite = sorted(run for run in runs if np.isfinite(run[2]))
    best = []
    for width, group in itertools.groupby(finite, key=lambda run: run[0]):
        losses: dict[float, list[float]] = {}
        for _, rate, loss in group:
            losses.setdefault(rate, []).append(loss)
        if len(losses) >= 3:
            best.append(fit_minimum(width, np.array(list(losses)), np.array([np.mean(x) for x in losses.values()])))
    return best


def fit_minimum(width: float, rates_N: np.ndarray, losses_N: np.ndarray) -> BestRate:
    """Fits a parabola through the lowest loss and its neighbours; returns the lowest point itself if it is at an edge."""
    i = int(np.argmin(losses_N))
    if i in (0, len(rates_N) - 1):
        return BestRate(width, float(rates_N[i]), float(losses_N[i]), True)
    a, b, c = np.polyfit(np.log(rates_N[i - 1 : i + 2]), losses_N[i - 1 : i + 2], 2)
    return BestRate(width, float(np.exp(-b / (2 * a))), float(c - b * b / (4 * a)), False)

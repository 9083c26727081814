"""The best learning rate of every width: what muP says is the same everywhere."""

import dataclasses
import itertools
from collections.abc import Iterable

import numpy as np


@dataclasses.dataclass(frozen=True)
class Best:
    """The rate at the bottom of a parabola through the lowest losses over log rate."""

    width: float
    rate: float
    loss: float
    at_edge: bool

    def row(self) -> dict[str, str]:
        note = "at the edge of the rates tried; try further" if self.at_edge else ""
        return {"width": f"{self.width:.0f}", "best lr": f"{self.rate:.3g}", "loss": f"{self.loss:.4f}", "": note}


def best_rates(runs: Iterable[tuple[float, float, float]]) -> list[Best]:
    """The best rate of every width with three rates or more, of (width, rate, loss); seeds of a rate are averaged."""
    runs = sorted(run for run in runs if np.isfinite(run[2]))
    found = []
    for width, group in itertools.groupby(runs, key=lambda run: run[0]):
        losses: dict[float, list[float]] = {}
        for _, rate, loss in group:
            losses.setdefault(rate, []).append(loss)
        if len(losses) >= 3:
            found.append(bottom(width, np.array(list(losses)), np.array([np.mean(x) for x in losses.values()])))
    return found


def bottom(width: float, rates_N: np.ndarray, losses_N: np.ndarray) -> Best:
    """Through the lowest loss and its neighbours; the lowest itself where it stands at an edge."""
    i = int(np.argmin(losses_N))
    if i in (0, len(rates_N) - 1):
        return Best(width, float(rates_N[i]), float(losses_N[i]), True)
    a, b, c = np.polyfit(np.log(rates_N[i - 1 : i + 2]), losses_N[i - 1 : i + 2], 2)
    return Best(width, float(np.exp(-b / (2 * a))), float(c - b * b / (4 * a)), False)

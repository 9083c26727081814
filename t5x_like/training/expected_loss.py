"""The training loss that the monitor compares a run with: a curve over its steps, at a level given or learned.

Where the curve comes from is not part of training: `t5x_like.scaling.expected` computes one from an earlier run.
"""

import dataclasses
import math
from typing import Protocol

import numpy as np

FROM = 0.1  # share of the run after which losses are fitted and compared


@dataclasses.dataclass(frozen=True)
class Run:
    """A run to come: N, tokens of a step, and the learning rate of every step."""

    n_params: float
    step_tokens: float
    rates: np.ndarray


@dataclasses.dataclass
class Curve:
    """Expected losses: `excess_S` of every step over `level`, noise of a step and half the band, relative to the loss."""

    excess_S: np.ndarray
    noise: float
    half: float
    learned: tuple[float, float]
    level: float | None
    seen: tuple[tuple[float, int], ...] = ()

    def known(self, done: int) -> bool:
        """Whether a loss after this many steps can be compared."""
        return self.level is not None and done >= FROM * len(self.excess_S)

    def learn(self, done: int, count: int, loss: float) -> None:
        """Takes in the mean loss of the last `count` steps, where the level is to be learned."""
        if self.level is not None:
            return
        low, high = (share * len(self.excess_S) for share in self.learned)
        if done > high and self.seen:
            self.level = float(np.average([x for x, _ in self.seen], weights=[n for _, n in self.seen]))
        elif done - count >= low:
            self.seen += ((loss - float(self.excess_S[done - count : done].mean()), count),)

    def band(self, done: int, count: int) -> tuple[float, float, float]:
        """(middle, low, high) for the mean loss of the last `count` steps, its own noise aside."""
        middle = self.level + float(self.excess_S[done - count : done].mean())
        return middle, middle * math.exp(-self.half), middle * math.exp(self.half)


class Expected(Protocol):
    """A source of expected losses."""

    def curve(self, run: Run) -> Curve:
        """The expected loss of a run that has not started.

        Raises:
          ValueError, FileNotFoundError: there is nothing to compute it from.
        """

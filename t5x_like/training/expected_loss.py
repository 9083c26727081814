"""The training loss that the monitor compares a run with: a curve over its steps, at a level given or learned.

Where the curve comes from is not part of training: `t5x_like.scaling.expected` computes one from an earlier run.
"""

import dataclasses
import math
from typing import Protocol

import numpy as np

FROM = 0.1  # the share of a run before which losses are neither fitted nor compared


@dataclasses.dataclass(frozen=True)
class Run:
    """A run that has not started: N, tokens per step, and the learning rate of every step [S]."""

    n_params: float
    step_tokens: float
    rates: np.ndarray


@dataclasses.dataclass
class Curve:
    """The expected loss of every step: `level` + `excess_S`.

    Attributes:
      excess_S: the loss above the level, nats.
      noise: the standard deviation of one step's loss, relative to the loss.
      half: half the width of the band, in log loss.
      learned: the share of the run, from and to, over which a level that is None is learned.
      seen: (level, steps) of the losses that the level is learned from.
    """

    excess_S: np.ndarray
    noise: float
    half: float
    learned: tuple[float, float]
    level: float | None
    seen: tuple[tuple[float, int], ...] = ()

    def is_known(self, done: int) -> bool:
        """Whether a loss after `done` steps can be compared."""
        return self.level is not None and done >= FROM * len(self.excess_S)

    def learn(self, done: int, count: int, loss: float) -> None:
        """Adds the mean loss of the last `count` steps to those that the level is learned from."""
        if self.level is not None:
            return
        low, high = (share * len(self.excess_S) for share in self.learned)
        if done > high and self.seen:
            self.level = float(np.average([x for x, _ in self.seen], weights=[n for _, n in self.seen]))
        elif done - count >= low:
            self.seen += ((loss - float(self.excess_S[done - count : done].mean()), count),)

    def band(self, done: int, count: int) -> tuple[float, float, float]:
        """(middle, low, high) for the mean loss of the last `count` steps, without the noise of steps.

        Raises:
          ValueError: the level is not known yet.
        """
        if self.level is None:
            raise ValueError("the level of the expected loss is not known yet; ask `is_known` first")
        middle = self.level + float(self.excess_S[done - count : done].mean())
        return middle, middle * math.exp(-self.half), middle * math.exp(self.half)


class Expected(Protocol):
    """A source of expected losses."""

    def curve(self, run: Run) -> Curve:
        """The expected loss of a run that has not started.

        Raises:
          ValueError, FileNotFoundError: there is no reference run to compute it from.
        """
        ...

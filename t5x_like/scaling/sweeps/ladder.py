"""A ladder that sizes itself: IsoFLOP budgets that fit into some minutes, and how well they will forecast, before they run.

A run of T tokens of a model with f training FLOPs a token takes (start + start_per_flop f) + T (per_token + per_flop f)
seconds; two sizes, timed, give the four numbers. The largest budget is then the one with which all runs, and the run that
they are to forecast, end in time. The forecast is rehearsed on tables drawn from an assumed law with the noise of seeds.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from t5x_like.scaling.laws import laws, optima, solver, table
from t5x_like.scaling.planning import recipes
from t5x_like.scaling.planning.recipes import Counts, Recipe
from t5x_like.scaling.planning.shapes import Shape
from t5x_like.scaling.sweeps import designs
from t5x_like.scaling.sweeps.designs import IsoFlop, Point

SPEED_UP = 0.75  # of a run that has a machine's cores to itself, for each core
PROBE = {"STEPS": 60, "WARMUP_STEPS": 10, "trainer.train.log_every": 20}


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds of a process: `start` + `start_per_flop` f before and after training, `per_token` + `per_flop` f a token."""

    start: float
    start_per_flop: float
    per_token: float
    per_flop: float

    def seconds(self, flops_per_token: float, tokens: float, speed_up: float = 1.0) -> float:
        train = tokens * (self.per_token + self.per_flop * flops_per_token)
        return self.start + (self.start_per_flop * flops_per_token + train) / speed_up


def timing(runs: Sequence[tuple[float, float, float]]) -> Timing:
    """From (FLOPs per token, seconds a token, seconds that were no training) of runs of two sizes, averaged by size.

    Raises:
      ValueError: the runs are not of two sizes.
    """
    sizes = sorted({run[0] for run in runs})
    if len(sizes) != 2:
        raise ValueError(
            f"timed runs have {len(sizes)} sizes; a line through them needs 2: set SelfSized.timed further apart"
        )
    small, large = (np.mean([run[1:] for run in runs if run[0] == size], axis=0) for size in sizes)
    slope = np.maximum((large - small) / (sizes[1] - sizes[0]), 0.0)
    per_token, start = np.maximum(small - slope * sizes[0], 0.0)
    return Timing(float(start), float(slope[1]), float(per_token), float(slope[0]))


@dataclasses.dataclass(frozen=True)
class SelfSized:
    """IsoFLOP curves of `seeds` runs each at budgets `step` apart, that take `minutes` with a run of `target_ratio` times more.

    `seeds` starts with the smallest budget; `timed` are the two N that are timed; `assumed` the law and `noise` the standard
    deviation of log loss between seeds that the rehearsal draws from, where the sweep has not measured it.
    """

    minutes: float
    sizes: designs.AroundOptimum
    seeds: Sequence[int] = (3, 3, 2, 1)
    step: float = 2.5
    target_ratio: float = 10.0
    timed: tuple[float, float] = (2e4, 3e5)
    noise: float = 0.003
    assumed: Mapping[str, float] = dataclasses.field(
        default_factory=lambda: {"E": 0.93, "A": 90.0, "B": 400.0, "alpha": 0.535, "beta": 0.52}
    )

    def probes(self, processes: int) -> list[Point]:
        """Short runs of both sizes, as many of each as there are processes, for runs share the machine."""
        return [Point(self.sizes.rule(n) | PROBE | {"SEED": i}) for n in self.timed for i in range(processes)]

    def budgets(self, largest: float) -> dict[float, int]:
        """{FLOPs: seeds}, the last of them the largest."""
        count = len(self.seeds)
        return {rounded(largest / self.step ** (count - 1 - i)): seeds for i, seeds in enumerate(self.seeds)}

    def design(self, largest: float) -> IsoFlop:
        return IsoFlop(self.budgets(largest), self.sizes)

    def target(self, largest: float) -> tuple[Shape, float]:
        """(shape, FLOPs) of the run to be forecast: the middle size of its budget."""
        flops = rounded(largest) * self.target_ratio
        alone = dataclasses.replace(self.sizes, count=1)
        return alone(flops)[0], flops

    def seconds(self, largest: float, recipe: Recipe, counts: Callable[[Shape], Counts], timed: Timing, processes: int):
        """(seconds of the ladder, seconds of the run it is to forecast)."""

        def of(shape: Shape, flops: float, speed_up: float) -> float:
            counted = counts(shape)
            return timed.seconds(counted.exact_per_token, flops / recipe.count(counted), speed_up)

        every = [
            seeds * of(shape, flops, 1.0)
            for flops, seeds in self.budgets(largest).items()
            for shape in self.sizes(flops)
        ]
        alone = of(*self.target(largest), max(SPEED_UP * processes, 1.0)) if self.target_ratio else 0.0
        return sum(every) / processes, alone

    def largest(self, seconds: Callable[[float], tuple[float, float]]) -> float:
        """The largest budget with which everything ends in time.

        Raises:
          ValueError: not even the starts of the runs fit into the minutes.
        """
        low, high = self.least(), 1e30
        if sum(seconds(low)) > 60 * self.minutes:
            raise ValueError(
                f"minutes={self.minutes:g}: the smallest ladder of {sum(self.seeds)} x {self.sizes.count} runs takes "
                f"{sum(seconds(low)) / 60:.1f} minutes, most of them for starting; give more, or fewer seeds or sizes"
            )
        while high / low > 1.01:
            middle = math.sqrt(low * high)
            low, high = (middle, high) if sum(seconds(middle)) <= 60 * self.minutes else (low, middle)
        return rounded(low)

    def least(self) -> float:
        """The smallest largest budget at which every budget has sizes enough for a parabola."""
        flops = 1e6
        while any(len(self.sizes(budget)) < min(self.sizes.count, optima.LEAST) for budget in self.budgets(flops)):
            flops *= 1.1
        return flops


def rounded(flops: float) -> float:
    """To three digits, so that budgets read well and are the same everywhere."""
    return float(f"{flops:.3g}")


def seed_noise(runs: table.Table) -> float | None:
    """Standard deviation of log loss between runs that differ in nothing but the seed; None where there are none."""
    names = ("n_params", "tokens", "lr", "batch_tokens")
    done = (runs["status"] == "finished") & (runs["loss"] > 0)
    groups: dict[tuple, list[float]] = {}
    for i in np.flatnonzero(done):
        groups.setdefault(tuple(runs[name][i] for name in names), []).append(math.log(runs["loss"][i]))
    several = [np.array(group) for group in groups.values() if len(group) > 1]
    if not several:
        return None
    squares = sum(((group - group.mean()) ** 2).sum() for group in several)
    return float(np.sqrt(squares / sum(len(group) - 1 for group in several)))


# Nearly least squares: the noise of seeds has no outliers, where a delta of 1e-3 would weigh it as if it had.
OBJECTIVE = solver.Objective("Huber, delta 1e-2, on log residuals, summed", 1e-2)


def rehearsed(
    runs: Sequence[tuple[float, float]],
    target: tuple[float, float],
    assumed: Mapping[str, float],
    noise: float,
    draws: int = 64,
) -> float:
    """Root mean square error of the forecast, as a share of the loss, over tables drawn from an assumed law.

    `runs` and `target` are (N, D). The law itself is taken to hold: what it misses of real losses comes on top.
    """
    law, generator = laws.CHINCHILLA, np.random.default_rng(0)
    x_NK = np.log(np.array(runs, np.float64))
    theta = law.theta(assumed)
    truth_N = laws.evaluate(law.function, theta[None], x_NK)[0]
    y_SN = truth_N + noise * generator.standard_normal((draws, len(x_NK)))
    start_SP = np.repeat(theta[None], draws, axis=0)
    theta_SP, _ = solver.minimize(law.function, OBJECTIVE, start_SP, x_NK, y_SN)
    at = np.log(np.array([target], np.float64))
    errors = laws.evaluate(law.function, theta_SP, at)[:, 0] - laws.evaluate(law.function, theta[None], at)[0, 0]
    return float(np.sqrt(np.mean(errors**2)))


def tokens_of(flops: float, counts: Counts, recipe: recipes.Recipe) -> float:
    """D that a budget pays for."""
    return flops / recipe.count(counts)

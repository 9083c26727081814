"""A ladder sized by time: IsoFLOP budgets that fit into given minutes, and the forecast error to expect from them.

A run of T tokens of a model with f training FLOPs a token takes (start + start_per_flop f) + T (per_token + per_flop f)
seconds; timing two sizes determines the four numbers. The largest budget is the one with which all runs, and the run that
they forecast, fit into the time. The forecast error is simulated on tables drawn from an assumed law with seed noise.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from t5x_like.scaling.laws import laws, optima, solver, table
from t5x_like.scaling.planning.recipes import Counts, Recipe
from t5x_like.scaling.planning.shapes import Shape
from t5x_like.scaling.sweeps import designs
from t5x_like.scaling.sweeps.designs import IsoFlop, Point

PARALLEL_EFFICIENCY = 0.75  # speed-up per core of a run that has all cores of a machine
PROBE = {"STEPS": 60, "WARMUP_STEPS": 10, "trainer.train.log_every": 20}


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds of a process: `start` + `start_per_flop` f outside training, `per_token` + `per_flop` f per token."""

    start: float
    start_per_flop: float
    per_token: float
    per_flop: float

    def seconds(self, flops_per_token: float, tokens: float, speed_up: float = 1.0) -> float:
        """Seconds of a run; `speed_up` divides all but `start`."""
        train = tokens * (self.per_token + self.per_flop * flops_per_token)
        return self.start + (self.start_per_flop * flops_per_token + train) / speed_up


def fit_timing(runs: Sequence[tuple[float, float, float]]) -> Timing:
    """Fits a Timing to (FLOPs per token, seconds per token, seconds outside training) of runs of two sizes, averaged by size.

    Raises:
      ValueError: the runs are not of two sizes.
    """
    sizes = sorted({run[0] for run in runs})
    if len(sizes) != 2:
        raise ValueError(
            f"probe runs have {len(sizes)} distinct sizes, but a line needs 2; set TimeBudgetLadder.probe_sizes further apart"
        )
    small, large = (np.mean([run[1:] for run in runs if run[0] == size], axis=0) for size in sizes)
    slope = np.maximum((large - small) / (sizes[1] - sizes[0]), 0.0)
    per_token, start = np.maximum(small - slope * sizes[0], 0.0)
    return Timing(float(start), float(slope[1]), float(per_token), float(slope[0]))


@dataclasses.dataclass(frozen=True)
class TimeBudgetLadder:
    """IsoFLOP curves whose runs, together with a target run, take `minutes`.

    Attributes:
      minutes: time for the ladder and the target run.
      sizes: the sizes of a budget.
      seeds: seeds per budget, from the smallest budget up.
      step: ratio of neighbouring budgets.
      target_ratio: compute of the target run over the largest budget.
      probe_sizes: the two N that are timed.
      noise: standard deviation of log loss between seeds for the simulated forecast, if the sweep has not measured it.
      assumed_law: parameters of the law that the simulated forecast draws from.
    """

    minutes: float
    sizes: designs.AroundOptimum
    seeds: Sequence[int] = (3, 3, 2, 1)
    step: float = 2.5
    target_ratio: float = 10.0
    probe_sizes: tuple[float, float] = (2e4, 3e5)
    noise: float = 0.003
    assumed_law: Mapping[str, float] = dataclasses.field(
        default_factory=lambda: {"E": 0.93, "A": 90.0, "B": 400.0, "alpha": 0.535, "beta": 0.52}
    )

    def probes(self, processes: int) -> list[Point]:
        """Short runs of both sizes, one of each per process, because runs share the machine."""
        return [Point(self.sizes.rule(n) | PROBE | {"SEED": i}) for n in self.probe_sizes for i in range(processes)]

    def budgets(self, largest: float) -> dict[float, int]:
        """{FLOPs: seeds}, in ascending order."""
        count = len(self.seeds)
        return {round_flops(largest / self.step ** (count - 1 - i)): seeds for i, seeds in enumerate(self.seeds)}

    def design(self, largest: float) -> IsoFlop:
        """The design with `largest` as the largest budget."""
        return IsoFlop(self.budgets(largest), self.sizes)

    def target(self, largest: float) -> tuple[Shape, float]:
        """(shape, FLOPs) of the target run: the middle size of its budget."""
        flops = round_flops(largest) * self.target_ratio
        alone = dataclasses.replace(self.sizes, count=1)
        return alone(flops)[0], flops

    def estimate_seconds(
        self, largest: float, recipe: Recipe, counts: Callable[[Shape], Counts], timing: Timing, processes: int
    ) -> tuple[float, float]:
        """Returns (seconds of the ladder, seconds of the target run)."""

        def run_seconds(shape: Shape, flops: float, speed_up: float) -> float:
            sizes = counts(shape)
            return timing.seconds(sizes.exact_per_token, flops / recipe.count(sizes), speed_up)

        ladder = [
            seeds * run_seconds(shape, flops, 1.0)
            for flops, seeds in self.budgets(largest).items()
            for shape in self.sizes(flops)
        ]
        speed_up = max(PARALLEL_EFFICIENCY * processes, 1.0)
        target = run_seconds(*self.target(largest), speed_up) if self.target_ratio else 0.0
        return sum(ladder) / processes, target

    def largest_budget(self, seconds: Callable[[float], tuple[float, float]]) -> float:
        """Returns the largest budget with which ladder and target run fit into `minutes`.

        Raises:
          ValueError: starting the runs alone takes longer.
        """
        low, high = self.smallest_budget(), 1e30
        if sum(seconds(low)) > 60 * self.minutes:
            raise ValueError(
                f"minutes={self.minutes:g}: the smallest ladder of {sum(self.seeds)} x {self.sizes.count} runs takes "
                f"{sum(seconds(low)) / 60:.1f} minutes, most of them to start runs; give more minutes, or fewer seeds or sizes"
            )
        while high / low > 1.01:
            middle = math.sqrt(low * high)
            low, high = (middle, high) if sum(seconds(middle)) <= 60 * self.minutes else (low, middle)
        return round_flops(low)

    def smallest_budget(self) -> float:
        """The smallest value of the largest budget at which every budget has enough sizes for a parabola."""
        flops = 1e6
        while any(len(self.sizes(budget)) < min(self.sizes.count, optima.MIN_POINTS) for budget in self.budgets(flops)):
            flops *= 1.1
        return flops


def round_flops(flops: float) -> float:
    """Rounds to three digits, so that budgets are readable and equal on every machine."""
    return float(f"{flops:.3g}")


def seed_noise(runs: table.Table) -> float | None:
    """Standard deviation of log loss between runs that differ only in the seed; None if there are no such runs."""
    names = ("n_params", "tokens", "lr", "batch_tokens")
    finished = (runs["status"] == "finished") & (runs["loss"] > 0)
    groups: dict[tuple, list[float]] = {}
    for i in np.flatnonzero(finished):
        groups.setdefault(tuple(runs[name][i] for name in names), []).append(math.log(runs["loss"][i]))
    repeats = [np.array(group) for group in groups.values() if len(group) > 1]
    if not repeats:
        return None
    squares = sum(((group - group.mean()) ** 2).sum() for group in repeats)
    return float(np.sqrt(squares / sum(len(group) - 1 for group in repeats)))


# Nearly least squares: seed noise has no outliers, and a delta of 1e-3 would treat it as if it had.
OBJECTIVE = solver.Objective("Huber, delta 1e-2, on log residuals, summed", 1e-2)


def simulate_forecast(
    runs: Sequence[tuple[float, float]],
    target: tuple[float, float],
    assumed_law: Mapping[str, float],
    noise: float,
    draws: int = 64,
) -> float:
    """Root mean square error of the forecast, relative to the loss, over tables drawn from an assumed law.

    `runs` and `target` are (N, D). The law is assumed to hold exactly: its misfit to real losses comes on top.
    """
    law, generator = laws.CHINCHILLA, np.random.default_rng(0)
    x_NK = np.log(np.array(runs, np.float64))
    theta = law.theta(assumed_law)
    truth_N = laws.evaluate(law.function, theta[None], x_NK)[0]
    y_SN = truth_N + noise * generator.standard_normal((draws, len(x_NK)))
    start_SP = np.repeat(theta[None], draws, axis=0)
    theta_SP, _ = solver.minimize(law.function, OBJECTIVE, start_SP, x_NK, y_SN)
    at = np.log(np.array([target], np.float64))
    errors = laws.evaluate(law.function, theta_SP, at)[:, 0] - laws.evaluate(law.function, theta[None], at)[0, 0]
    return float(np.sqrt(np.mean(errors**2)))


def budget_tokens(flops: float, counts: Counts, recipe: Recipe) -> float:
    """Returns the tokens D that a budget allows."""
    return flops / recipe.count(counts)

"""What the training loss of a run should be at every step: the curve of a smaller run, at the level that a fitted law gives.

Runs of different sizes but alike in tokens per parameter follow one curve, once what they end at is taken off: roughly, as
benchmarks/scaling_ladder_monitor.py measures. With u the share of the steps done and r the reference run,

    loss(u) = end + scale * excess(u)        excess(u) = loss_r(u) - loss_r(1), smoothed
    end = law(N, D) * (training loss at the end of r / its evaluation loss)
    scale = (end - E) / (end_r - E)

with E the law's irreducible loss (Qiu et al. 2025, "Scaling collapse": curves agree in proportion to what is above it); 1
where there is no law or it has none.

Where the learning rates take another course than the reference's, the excess is corrected by the law of annealing (Tissue et
al. 2024), fitted to the reference; s is the share of the way at the peak rate, and memory the time that annealing works on:

    loss(u) = L0 + A S1(u)^-alpha - C S2(u)    S1 = integral of rate / peak    S2 = integral of the annealing, fading in `memory`
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from t5x_like import writers
from t5x_like.run_dir import RunDir
from t5x_like.scaling.laws import fit, table
from t5x_like.scaling.sweeps import ladder
from t5x_like.training.expected_loss import FROM, Curve, Run

GRID = 1000  # points of u
ALIKE = 1.8  # tokens per parameter of two runs whose curves are taken to collapse
WIDTH = 0.05  # standard deviation of the kernel that smooths a reference, as a share of the run
ALPHAS = np.linspace(0.1, 1.5, 29)
MEMORIES = np.geomspace(0.003, 1.0, 12)


@dataclasses.dataclass(frozen=True)
class Reference:
    """The log of a run that is over: after `step_N` steps the means of loss and learning rate since the line before."""

    run_dir: Path
    step_N: np.ndarray
    loss_N: np.ndarray
    rate_N: np.ndarray
    step_tokens: float
    eval_loss: float

    @property
    def count_N(self) -> np.ndarray:
        """Steps that a line is the mean of."""
        return np.diff(self.step_N, prepend=0)

    @property
    def u_N(self) -> np.ndarray:
        """The middle of what a line is the mean of, as a share of the run."""
        return (self.step_N - self.count_N / 2) / self.step_N[-1]


def reference(run_dir) -> Reference:
    """Reads the metrics.jsonl of a run.

    Raises:
      ValueError: there is none, or not enough of one.
    """
    records = writers.read_records(RunDir(run_dir).metrics)
    lines = [record for record in records if "loss" in record and "learning_rate" in record]
    if len(lines) < 10:
        raise ValueError(
            f"{run_dir} has {len(lines)} lines with loss and learning rate in its metrics.jsonl; a reference needs 10 or more"
        )
    step_N, loss_N, rate_N = (np.array([x[name] for x in lines]) for name in ("step", "loss", "learning_rate"))
    speeds = (lines[-1][f"speed/{name}"] for name in ("tokens_per_second", "step_seconds"))
    evaluated = [record["eval/loss"] for record in records if "eval/loss" in record]
    return Reference(Path(run_dir), step_N, loss_N, rate_N, math.prod(speeds), evaluated[-1] if evaluated else math.nan)


def nearest(directory, n_params: float, tokens: float) -> Path:
    """The run directory of the finished run of a sweep that a run of N and D is most like; or a run's own.

    Curves collapse where tokens per parameter are alike: of the runs that are no larger than N, the largest whose D / N is
    within a factor ALIKE, or else the one whose D / N is nearest.

    Raises:
      FileNotFoundError: neither a sweep nor a run; ValueError: all runs are larger.
    """
    directory = Path(directory)
    if RunDir(directory).metrics.exists():
        return directory
    if not (directory / "runs.csv").exists():
        raise FileNotFoundError(f"{directory} has neither metrics.jsonl (of a run) nor runs.csv (of a sweep)")
    rows = [row for row in table.read(directory / "runs.csv").rows() if row["status"] == "finished"]
    smaller = [row for row in rows if row["n_params"] <= n_params]
    if not smaller:
        raise ValueError(
            f"all {len(rows)} finished runs of {directory} have more than N={n_params:,.0f} parameters; a reference has fewer"
        )
    return directory / "cells" / most_alike(smaller, n_params, tokens)["run_id"]


def most_alike(rows: Sequence[Mapping[str, Any]], n_params: float, tokens: float) -> Mapping[str, Any]:
    """The row that `nearest` chooses of runs that are no larger."""

    def apart(row) -> float:
        return abs(math.log(row["tokens"] / row["n_params"] / (tokens / n_params)))

    alike = [row for row in rows if apart(row) <= math.log(ALIKE)]
    if alike:
        return max(alike, key=lambda row: (row["n_params"], -apart(row), -row.get("loss", math.inf)))
    return min(rows, key=lambda row: (apart(row), row.get("loss", math.inf)))


@dataclasses.dataclass(frozen=True)
class Expected:
    """Where expectations come from: `runs` is a sweep's directory or a run's, `law` a file of t5x_like fit.

    Without `law` the level is learned from the run itself, between the shares `learned` of its steps. The band is `sigmas`
    standard deviations: of the level (the law's forecast, or the noise of seeds) and of `shape`, how far the curves of
    two sizes are apart where they should agree, both relative to the loss.
    """

    runs: str
    law: str | None = None
    noise: float = 0.003
    shape: float = 0.02
    sigmas: float = 2.0
    learned: tuple[float, float] = (0.1, 0.2)

    def curve(self, run: Run) -> Curve:
        """What is expected of a run.

        Raises:
          ValueError, FileNotFoundError: no run to go by, or a law that needs more than N and D.
        """
        found = reference(nearest(self.runs, run.n_params, run.step_tokens * len(run.rates)))
        excess_S, scatter = excess(found, np.asarray(run.rates))
        noise = scatter / found.loss_N[-1] * math.sqrt(found.step_tokens / run.step_tokens)
        level, spread, scale = self.level(run, found, len(excess_S))
        half = self.sigmas * math.hypot(spread, self.shape)
        return Curve(scale * excess_S, noise, half, self.learned, level)

    def level(self, run: Run, found: Reference, steps: int) -> tuple[float | None, float, float]:
        """(training loss at the end or None, its standard deviation relative to it, scale of the excess)."""
        if self.law is None:
            return None, self.seeds(), 1.0
        law, tokens = fit.read(self.law), run.step_tokens * steps
        row = {"n_params": run.n_params, "tokens": tokens, "flops_6nd": 6 * run.n_params * tokens}
        if unknown := set(law.law.inputs) - set(row):
            raise ValueError(f"law={self.law}: {law.law.name} needs {', '.join(unknown)}; take a law of N, D or 6ND")
        if not math.isfinite(found.eval_loss):
            raise ValueError(f"{found.run_dir} was never evaluated: a law forecasts evaluation losses; leave law out")
        forecast = law.predict({name: [row[name]] for name in law.law.inputs}, level=math.erf(math.sqrt(0.5)))
        low, middle, high = (float(x[0]) for x in (forecast.low, forecast.value, forecast.high))
        floor = law.parameters.get("E")
        scale = (middle - floor.value) / (found.eval_loss - floor.value) if floor and floor.identified else 1.0
        return middle * ending(found) / found.eval_loss, math.log(high / low) / 2, scale if scale > 0 else 1.0

    def seeds(self) -> float:
        """Standard deviation of log loss between seeds: measured in the sweep where it has repeats."""
        path = Path(self.runs) / "runs.csv"
        return (ladder.seed_noise(table.read(path)) if path.exists() else None) or self.noise


def excess(found: Reference, rate_S: np.ndarray) -> tuple[np.ndarray, float]:
    """(loss over the end's at each step of a run with these rates, scatter of one step's loss in the reference)."""
    theirs = course(found.u_N, found.rate_N)
    ours = course(np.arange(1, len(rate_S) + 1) / len(rate_S), rate_S)
    features, weights = annealing_fit(found, theirs)
    used = found.u_N >= FROM
    u_N, count_N = found.u_N[used], found.count_N[used]
    residual_N = (found.loss_N - means(features(theirs), found) @ weights)[used]

    def smoother(u: np.ndarray) -> np.ndarray:
        kernel = np.exp(-((u[:, None] - u_N) ** 2) / (2 * WIDTH**2)) * count_N
        return kernel / kernel.sum(axis=1, keepdims=True)

    smooth = features(ours) @ weights + smoother(GRID_U) @ residual_N
    u_S = (np.arange(len(rate_S)) + 0.5) / len(rate_S)
    smoother_NN = smoother(u_N)
    own_N = np.diag(smoother_NN)  # a line's part in its own smoothed value
    scatter = math.sqrt(np.average(((residual_N - smoother_NN @ residual_N) / (1 - own_N)) ** 2 * count_N))
    return np.interp(u_S, GRID_U, smooth - smooth[-1]), scatter


def ending(found: Reference) -> float:
    """The reference's smoothed training loss at its end."""
    steps = int(found.step_N[-1])
    rates = np.interp((np.arange(steps) + 0.5) / steps, found.u_N, found.rate_N)
    excess_S, _ = excess(found, rates)
    last = found.u_N >= 1 - 2 * WIDTH
    over_N = np.interp(found.u_N, (np.arange(steps) + 0.5) / steps, excess_S)
    return float(np.average((found.loss_N - over_N)[last], weights=found.count_N[last]))


GRID_U = (np.arange(GRID) + 1) / GRID


def course(u_N: np.ndarray, rate_N: np.ndarray) -> np.ndarray:
    """Learning rates on GRID_U, as shares of the peak; before the first that is known they rise from 0, if they rise after it."""
    start = 0.0 if rate_N[0] < rate_N[1] else rate_N[0]
    rates = np.interp(GRID_U, np.append(0, u_N), np.append(start, rate_N))
    return rates / max(rates.max(), 1e-30)


def means(value_UK: np.ndarray, found: Reference) -> np.ndarray:
    """Means of columns on GRID_U over the steps of each line of a log: [N, K]."""
    sum_UK = np.vstack([np.zeros(value_UK.shape[1]), np.cumsum(value_UK, axis=0)]) / GRID
    share_N = np.append(0, found.step_N) / found.step_N[-1]
    at_NK = np.stack([np.interp(share_N, np.append(0, GRID_U), x_U) for x_U in sum_UK.T], axis=1)
    return np.diff(at_NK, axis=0) / np.diff(share_N)[:, None]


def annealing_fit(found: Reference, course_U: np.ndarray):
    """(features of a course, their weights): the best of alpha and memory, the rest by least squares, A and C not negative."""
    used = found.u_N >= FROM
    weight_N = np.sqrt(found.count_N[used])
    best = (math.inf, None, None)
    for alpha in ALPHAS:
        for memory in MEMORIES:
            features = Features(alpha, memory)
            at_N = means(features(course_U), found)[used]
            weights = np.linalg.lstsq(at_N * weight_N[:, None], found.loss_N[used] * weight_N, rcond=None)[0]
            error = float(np.sum((weight_N * (at_N @ weights - found.loss_N[used])) ** 2))
            if weights[1] >= 0 and weights[2] <= 0 and error < best[0]:
                best = (error, features, weights)
    if best[1] is None:
        return Features(0.5, 1.0), np.array([float(found.loss_N[used].mean()), 0.0, 0.0])
    return best[1:]


@dataclasses.dataclass(frozen=True)
class Features:
    """1, S1^-alpha and S2 of a course of learning rates on GRID_U: [GRID, 3]."""

    alpha: float
    memory: float

    def __call__(self, course_U: np.ndarray) -> np.ndarray:
        way = np.cumsum(course_U) / GRID
        fallen = np.maximum(-np.diff(course_U, prepend=course_U[0]), 0.0)
        kernel = np.exp(-GRID_U / self.memory)
        annealing = np.convolve(fallen, kernel)[:GRID]
        return np.stack([np.ones(GRID), way**-self.alpha, np.cumsum(annealing) / GRID], axis=1)

"""The expected training loss of a run at every step: the curve of a smaller run, at the level that a fitted law predicts.

Runs of different sizes but similar tokens per parameter follow roughly one curve after subtraction of their final losses;
benchmarks/scaling_ladder_monitor.py measures how closely. With u the fraction of the steps done and r the reference run,

    loss(u) = end + scale * excess(u)        excess(u) = loss_r(u) - loss_r(1), smoothed
    end = law(N, D) * (training loss at the end of r / its evaluation loss)
    scale = (end - E) / (end_r - E)

with E the law's irreducible loss (Qiu et al. 2025, "Scaling collapse": curves agree in proportion to the loss above E).
scale is 1 without a law or with a law that has no E.

If the learning rate schedule differs from the reference's, the excess is corrected by the law of annealing (Tissue et al.
2024), fitted to the reference:

    loss(u) = L0 + A S1(u)^-alpha - C S2(u)    S1 = integral of rate / peak    S2 = integral of the annealing

where the effect of annealing decays exponentially with time constant `memory`.
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
from t5x_like.types import PathLike

GRID_POINTS = 1000  # points of u
GRID_U = (np.arange(GRID_POINTS) + 1) / GRID_POINTS
MAX_RATIO = 1.8  # between the tokens per parameter of two runs whose curves are assumed to collapse
KERNEL_WIDTH = 0.05  # standard deviation of the smoothing kernel, as a fraction of the run
ALPHAS = np.linspace(0.1, 1.5, 29)
MEMORIES = np.geomspace(0.003, 1.0, 12)


@dataclasses.dataclass(frozen=True)
class Reference:
    """The log of a finished run: after `step_N` steps, the means of loss and learning rate since the previous record."""

    run_dir: Path
    step_N: np.ndarray
    loss_N: np.ndarray
    rate_N: np.ndarray
    step_tokens: float
    eval_loss: float

    @property
    def count_N(self) -> np.ndarray:
        """The number of steps that a record averages."""
        return np.diff(self.step_N, prepend=0)

    @property
    def u_N(self) -> np.ndarray:
        """The middle of the steps that a record averages, as a fraction of the run."""
        return (self.step_N - self.count_N / 2) / self.step_N[-1]


def read_reference(run_dir: PathLike) -> Reference:
    """Reads the metrics.jsonl of a run.

    Raises:
      ValueError: the file is missing or has fewer than 10 records of loss and learning rate.
    """
    records = writers.read_metrics(RunDir(run_dir).metrics)
    lines = [record for record in records if "loss" in record and "learning_rate" in record]
    if len(lines) < 10:
        raise ValueError(
            f"{run_dir}/metrics.jsonl has {len(lines)} records with loss and learning rate; a reference needs 10 or more"
        )
    step_N, loss_N, rate_N = (np.array([x[name] for x in lines]) for name in ("step", "loss", "learning_rate"))
    speeds = (lines[-1][f"speed/{name}"] for name in ("tokens_per_second", "step_seconds"))
    evaluated = [record["eval/loss"] for record in records if "eval/loss" in record]
    return Reference(Path(run_dir), step_N, loss_N, rate_N, math.prod(speeds), evaluated[-1] if evaluated else math.nan)


def find_reference(directory: PathLike, n_params: float, tokens: float) -> Path:
    """Returns the directory of the reference run for a run of N and D: `directory` if it is a run, else a run of the sweep.

    Curves collapse if tokens per parameter are similar. Of the finished runs with at most N parameters, the reference is the
    largest whose D / N is within a factor MAX_RATIO, or else the one with the closest D / N.

    Raises:
      FileNotFoundError: `directory` is neither a sweep nor a run.
      ValueError: all finished runs have more parameters.
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
            f"all {len(rows)} finished runs of {directory} have more than N={n_params:,.0f} parameters; a reference must "
            "not be larger than the run"
        )
    return directory / "trials" / most_similar(smaller, n_params, tokens)["run_id"]


def most_similar(rows: Sequence[Mapping[str, Any]], n_params: float, tokens: float) -> Mapping[str, Any]:
    """Returns the row that `find_reference` chooses from rows with at most N parameters."""

    def distance(row: Mapping[str, Any]) -> float:
        return abs(math.log(row["tokens"] / row["n_params"] / (tokens / n_params)))

    similar = [row for row in rows if distance(row) <= math.log(MAX_RATIO)]
    if similar:
        return max(similar, key=lambda row: (row["n_params"], -distance(row), -row.get("loss", math.inf)))
    return min(rows, key=lambda row: (distance(row), row.get("loss", math.inf)))


@dataclasses.dataclass(frozen=True)
class ExpectedLoss:
    """The expected loss of a run, from earlier runs.

    Attributes:
      runs: directory of a sweep or of a run.
      law: a file written by t5x_like fit. None learns the level from the run itself.
      noise: standard deviation of log loss between seeds, if the sweep has no repeats.
      shape: standard deviation between the curves of two sizes, relative to the loss.
      sigmas: half the width of the band, in standard deviations of level and shape together.
      learned: the fractions of the run between which the level is learned.
    """

    runs: str
    law: str | None = None
    noise: float = 0.003
    shape: float = 0.02
    sigmas: float = 2.0
    learned: tuple[float, float] = (0.1, 0.2)

    def curve(self, run: Run) -> Curve:
        """Returns the expected curve of a run.

        Raises:
          FileNotFoundError: `runs` has no runs.
          ValueError: no run can be the reference, or the law needs more than N and D.
        """
        reference = read_reference(find_reference(self.runs, run.n_params, run.step_tokens * len(run.rates)))
        excess_S, scatter = excess_loss(reference, np.asarray(run.rates))
        noise = scatter / reference.loss_N[-1] * math.sqrt(reference.step_tokens / run.step_tokens)
        level, spread, scale = self.level(run, reference, len(excess_S))
        half = self.sigmas * math.hypot(spread, self.shape)
        return Curve(scale * excess_S, noise, half, self.learned, level)

    def level(self, run: Run, reference: Reference, steps: int) -> tuple[float | None, float, float]:
        """(final training loss or None, its relative standard deviation, scale of the excess)."""
        if self.law is None:
            return None, self.seed_noise(), 1.0
        law, tokens = fit.read(self.law), run.step_tokens * steps
        row = {"n_params": run.n_params, "tokens": tokens, "flops_6nd": 6 * run.n_params * tokens}
        if unknown := set(law.law.inputs) - set(row):
            raise ValueError(f"law={self.law}: {law.law.name} needs {', '.join(unknown)}; use a law of N, D or 6ND")
        if not math.isfinite(reference.eval_loss):
            raise ValueError(
                f"{reference.run_dir} has no eval/loss, and a law predicts evaluation losses; leave law out"
            )
        forecast = law.predict({name: [row[name]] for name in law.law.inputs}, level=math.erf(math.sqrt(0.5)))
        low, middle, high = (float(x[0]) for x in (forecast.low, forecast.value, forecast.high))
        floor = law.parameters.get("E")
        scale = (middle - floor.value) / (reference.eval_loss - floor.value) if floor and floor.identified else 1.0
        return (
            middle * final_loss(reference) / reference.eval_loss,
            math.log(high / low) / 2,
            scale if scale > 0 else 1.0,
        )

    def seed_noise(self) -> float:
        """Standard deviation of log loss between seeds, measured in the sweep if it has repeats."""
        path = Path(self.runs) / "runs.csv"
        return (ladder.seed_noise(table.read(path)) if path.exists() else None) or self.noise


def excess_loss(reference: Reference, rate_S: np.ndarray) -> tuple[np.ndarray, float]:
    """Returns (excess over the final loss at each step with learning rates `rate_S`, scatter of one step's loss)."""
    reference_U = resample_rates(reference.u_N, reference.rate_N)
    rate_U = resample_rates(np.arange(1, len(rate_S) + 1) / len(rate_S), rate_S)
    features, weights = fit_annealing(reference, reference_U)
    used = reference.u_N >= FROM
    u_N, count_N = reference.u_N[used], reference.count_N[used]
    residual_N = (reference.loss_N - interval_means(features(reference_U), reference) @ weights)[used]

    def smoother(u: np.ndarray) -> np.ndarray:
        kernel = np.exp(-((u[:, None] - u_N) ** 2) / (2 * KERNEL_WIDTH**2)) * count_N
        return kernel / kernel.sum(axis=1, keepdims=True)

    smooth = features(rate_U) @ weights + smoother(GRID_U) @ residual_N
    u_S = (np.arange(len(rate_S)) + 0.5) / len(rate_S)
    smoother_NN = smoother(u_N)
    own_N = np.diag(smoother_NN)  # weight of a record in its own smoothed value
    scatter = math.sqrt(np.average(((residual_N - smoother_NN @ residual_N) / (1 - own_N)) ** 2 * count_N))
    return np.interp(u_S, GRID_U, smooth - smooth[-1]), scatter


def final_loss(reference: Reference) -> float:
    """Returns the smoothed training loss of the reference at its end."""
    steps = int(reference.step_N[-1])
    rates = np.interp((np.arange(steps) + 0.5) / steps, reference.u_N, reference.rate_N)
    excess_S, _ = excess_loss(reference, rates)
    last = reference.u_N >= 1 - 2 * KERNEL_WIDTH
    excess_N = np.interp(reference.u_N, (np.arange(steps) + 0.5) / steps, excess_S)
    return float(np.average((reference.loss_N - excess_N)[last], weights=reference.count_N[last]))


def resample_rates(u_N: np.ndarray, rate_N: np.ndarray) -> np.ndarray:
    """Resamples learning rates to GRID_U, relative to the peak. They start from 0 if the first two are rising."""
    start = 0.0 if rate_N[0] < rate_N[1] else rate_N[0]
    rates = np.interp(GRID_U, np.append(0, u_N), np.append(start, rate_N))
    return rates / max(rates.max(), 1e-30)


def interval_means(value_UK: np.ndarray, reference: Reference) -> np.ndarray:
    """Averages columns on GRID_U over the steps of each record of a log: [N, K]."""
    sum_UK = np.vstack([np.zeros(value_UK.shape[1]), np.cumsum(value_UK, axis=0)]) / GRID_POINTS
    share_N = np.append(0, reference.step_N) / reference.step_N[-1]
    at_NK = np.stack([np.interp(share_N, np.append(0, GRID_U), x_U) for x_U in sum_UK.T], axis=1)
    return np.diff(at_NK, axis=0) / np.diff(share_N)[:, None]


def fit_annealing(reference: Reference, rate_U: np.ndarray) -> tuple["AnnealingFeatures", np.ndarray]:
    """Fits the law of annealing: alpha and memory on a grid, the weights by least squares with A, C >= 0.

    `rate_U` are the reference's rates on GRID_U. Returns (features, weights [3]).
    """
    used = reference.u_N >= FROM
    weight_N = np.sqrt(reference.count_N[used])
    loss_N = reference.loss_N[used]
    least = math.inf
    best = AnnealingFeatures(0.5, 1.0), np.array([float(loss_N.mean()), 0.0, 0.0])
    for alpha in ALPHAS:
        for memory in MEMORIES:
            features = AnnealingFeatures(alpha, memory)
            feature_NK = interval_means(features(rate_U), reference)[used]
            weights = np.linalg.lstsq(feature_NK * weight_N[:, None], loss_N * weight_N, rcond=None)[0]
            error = float(np.sum((weight_N * (feature_NK @ weights - loss_N)) ** 2))
            if weights[1] >= 0 and weights[2] <= 0 and error < least:
                least, best = error, (features, weights)
    return best


@dataclasses.dataclass(frozen=True)
class AnnealingFeatures:
    """The features 1, S1^-alpha and S2 of learning rates on GRID_U: [GRID_POINTS, 3]."""

    alpha: float
    memory: float

    def __call__(self, rate_U: np.ndarray) -> np.ndarray:
        s1_U = np.cumsum(rate_U) / GRID_POINTS
        decrease_U = np.maximum(-np.diff(rate_U, prepend=rate_U[0]), 0.0)
        kernel = np.exp(-GRID_U / self.memory)
        annealing = np.convolve(decrease_U, kernel)[:GRID_POINTS]
        return np.stack([np.ones(GRID_POINTS), s1_U**-self.alpha, np.cumsum(annealing) / GRID_POINTS], axis=1)

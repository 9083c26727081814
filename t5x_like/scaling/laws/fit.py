"""Fits a law to a table: parameters with intervals, a certificate of the optimum, and predictions for new runs.

    runs = table.read("runs.csv")
    result = fit.fit(runs, laws.CHINCHILLA)
    result.parameters["alpha"]           # Estimate(value, standard_error, low, high, identified, why)
    result.predict({"n_params": [7e10], "tokens": [1.4e12]})   # Prediction(value_N, low_N, high_N, level)
    result.write("fit.json"), fit.read("fit.json")

Standard errors come from bootstrap refits; intervals are their percentiles around the estimate. Large tables are bootstrapped
by resampling rows. In small tables (fewer than MIN_ROWS_TO_RESAMPLE rows per parameter) resampled rows often leave no design
to fit, and a robust fit passes through as many rows as it has parameters, so resampled residuals contain too many zeros: the
bootstrap then draws normal noise of the residuals' size. Both are widened by sqrt(n / (n - p)) and Student's t over the normal.
A prediction interval is for one new run: it combines the uncertainty of the parameters and the scatter of single runs (seeds).
It assumes that the law holds, which no resampling can test: the leave-future-out backtest (backtest.py) checks that.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from t5x_like.scaling.laws import checks, laws, solver
from t5x_like.scaling.laws.identifiability import Identification, check_identification
from t5x_like.scaling.laws.laws import Law
from t5x_like.scaling.laws.solver import HUBER, Objective
from t5x_like.scaling.laws.table import Step, Table
from t5x_like.types import PathLike

BASIN_TOLERANCE = 1e-4  # starts that end within this share of the lowest objective are in the best basin
MIN_ROWS_TO_RESAMPLE = 10  # rows per parameter at which the bootstrap resamples rows


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A parameter: value, bootstrap standard error and interval; `why` says why it is not identified."""

    value: float
    standard_error: float
    low: float
    high: float
    identified: bool
    why: str


@dataclasses.dataclass(frozen=True)
class Certificate:
    """The number of starts, the share that ended in the best basin, and the objective there."""

    starts: int
    share: float
    objective: float


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The predicted targets of new runs [N], with intervals of coverage `level`."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    level: float


@dataclasses.dataclass(frozen=True)
class Fit:
    """The result of `fit`: theta [P], `draws` [S, P] of the bootstrap refits, and residuals y - law(x) of the rows used."""

    law: Law
    objective: Objective
    theta: np.ndarray
    draws: np.ndarray
    residuals: np.ndarray
    parameters: Mapping[str, Estimate]
    identification: Identification
    certificate: Certificate
    bootstrap: str
    level: float
    steps: tuple[Step, ...]
    ranges: Mapping[str, tuple[float, float]]  # lowest and highest value of each input

    @property
    def rows(self) -> int:
        """The number of rows used."""
        return len(self.residuals)

    @property
    def constants(self) -> dict[str, float]:
        """The parameters as papers print them."""
        return self.law.constants(self.theta)

    @property
    def noise(self) -> float:
        """Standard deviation of a run's residual, on the law's scale (relative if the target is fitted as a log)."""
        return float(np.sqrt(np.sum(self.residuals**2) / max(self.rows - len(self.theta), 1)))

    def widened_draws(self, level: float | None = None) -> np.ndarray:
        """The bootstrap draws of theta [S, P], widened for intervals of coverage `level`."""
        return self.theta + (self.draws - self.theta) * widening_factor(self.rows, len(self.theta), level or self.level)

    def predict(self, columns: Mapping[str, ArrayLike] | Table, level: float | None = None) -> Prediction:
        """Predicts the target of single new runs from the law's inputs, by column.

        Raises:
          KeyError, ValueError: an input is absent.
        """
        level = self.level if level is None else level
        x_NK = self.law.features({name: np.atleast_1d(columns[name]) for name in self.law.inputs})
        middle_N = laws.evaluate(self.law.function, self.theta[None], x_NK)[0]
        draws_SN = laws.evaluate(self.law.function, self.widened_draws(level), x_NK)
        generator = np.random.default_rng(0)  # predictions are the same in every call
        scatter = self.residuals * widening_factor(self.rows, len(self.theta), level)
        draws_SN = draws_SN + generator.choice(scatter, draws_SN.shape)
        low_N, high_N = np.quantile(draws_SN, [(1 - level) / 2, (1 + level) / 2], axis=0)
        value_N, low_N, high_N = (self.law.inverse_transform(y_N) for y_N in (middle_N, low_N, high_N))
        return Prediction(value_N, low_N, high_N, level)

    def write(self, path: PathLike) -> None:
        """Writes JSON that `read` reads back."""
        arrays = {name: getattr(self, name).tolist() for name in ("theta", "draws", "residuals")}
        scalars = {name: getattr(self, name) for name in ("bootstrap", "level", "ranges")}
        law = {"name": self.law.name, "inputs": self.law.inputs, "target": self.law.target}
        parts = {
            name: dataclasses.asdict(getattr(self, name)) for name in ("objective", "identification", "certificate")
        }
        parameters = {name: dataclasses.asdict(each) for name, each in self.parameters.items()}
        steps = [dataclasses.asdict(step) for step in self.steps]
        Path(path).write_text(
            json.dumps({"law": law, "parameters": parameters, "steps": steps} | scalars | parts | arrays) + "\n"
        )


def read(path: PathLike) -> Fit:
    """Reads a fit written by `Fit.write`.

    Raises:
      ValueError: the file is not a fit.
    """
    try:
        content = json.loads(Path(path).read_text())
        law = laws.find_law(content["law"]["name"], tuple(content["law"]["inputs"]), content["law"]["target"])
        return Fit(
            law=law,
            objective=Objective(**content["objective"]),
            theta=np.array(content["theta"]),
            draws=np.array(content["draws"]),
            residuals=np.array(content["residuals"]),
            parameters={name: Estimate(**each) for name, each in content["parameters"].items()},
            identification=Identification(**content["identification"]),
            certificate=Certificate(**content["certificate"]),
            bootstrap=content["bootstrap"],
            level=content["level"],
            steps=tuple(Step(**step) for step in content["steps"]),
            ranges={name: tuple(pair) for name, pair in content["ranges"].items()},
        )
    except (KeyError, TypeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a fit ({error!r}); write one with t5x_like fit TABLE --out={path}") from None


def fit(
    table: Table,
    law: Law,
    objective: Objective = HUBER,
    starts: int | None = None,
    bootstraps: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Fit:
    """Fits `law` to the usable rows of `table`, from `starts` points of the law's grid (None: all of them).

    `bootstraps` refits give intervals of coverage `level`.

    Raises:
      ValueError: the table cannot be fitted; see checks.prepare.
    """
    table = checks.prepare(table, law)
    generator = np.random.default_rng(seed)
    x_NK, y_N = law.features(table), law.targets(table)
    theta_P, certificate = find_optimum(law, objective, x_NK, y_N, starts, generator)
    residuals = y_N - laws.evaluate(law.function, theta_P[None], x_NK)[0]
    draws, kind = bootstrap(law, objective, theta_P, x_NK, y_N, bootstraps, generator)
    identification = check_identification(law, objective, theta_P, x_NK, y_N, level)
    result = Fit(
        law=law,
        objective=objective,
        theta=theta_P,
        draws=draws,
        residuals=residuals,
        parameters={},
        identification=identification,
        certificate=certificate,
        bootstrap=kind,
        level=level,
        steps=table.steps,
        ranges={name: (float(table[name].min()), float(table[name].max())) for name in law.inputs},
    )
    return dataclasses.replace(result, parameters=estimate_parameters(result))


def find_optimum(
    law: Law,
    objective: Objective,
    x_NK: np.ndarray,
    y_N: np.ndarray,
    starts: int | None,
    generator: np.random.Generator,
) -> tuple[np.ndarray, Certificate]:
    """Returns the best theta_P of many starts, and how many starts agree.

    Raises:
      ValueError: no start gives finite predictions.
    """
    grid_SP = subsample_grid(law.grid(x_NK, y_N), starts, generator)
    theta_SP, value_S = solver.minimize_merging(law.function, objective, grid_SP, x_NK, y_N)
    if not np.isfinite(value_S).any():
        raise ValueError(f"no start of {law.name} gives finite predictions; check the units of {', '.join(law.inputs)}")
    best_SP = np.unique(theta_SP[np.argsort(value_S, kind="stable")[: solver.BATCH]], axis=0)
    best_SP, polished_S = solver.minimize(law.function, objective, best_SP, x_NK, y_N, stages=objective.polish_stages)
    lowest = min(value_S.min(), polished_S.min())
    theta_P = best_SP[polished_S.argmin()] if polished_S.min() <= value_S.min() else theta_SP[value_S.argmin()]
    share = np.mean(value_S <= lowest * (1 + BASIN_TOLERANCE) + 1e-300)
    return theta_P, Certificate(len(grid_SP), float(share), float(lowest))


def subsample_grid(grid_SP: np.ndarray, count: int | None, generator: np.random.Generator) -> np.ndarray:
    """Returns `count` random points of a grid; all of them for None."""
    if count is None or count >= len(grid_SP):
        return grid_SP
    return grid_SP[generator.choice(len(grid_SP), count, replace=False)]


def bootstrap(
    law: Law,
    objective: Objective,
    theta_P: np.ndarray,
    x_NK: np.ndarray,
    y_N: np.ndarray,
    count: int,
    generator: np.random.Generator,
) -> tuple[np.ndarray, str]:
    """Returns (draws_SP, kind of bootstrap): `count` refits that start at the optimum."""
    rows = len(y_N)
    if rows >= MIN_ROWS_TO_RESAMPLE * len(theta_P):
        kind, y_SN = "rows resampled", y_N
        weights_SN: np.ndarray | float = generator.multinomial(rows, np.full(rows, 1 / rows), count)
    else:
        middle_N = laws.evaluate(law.function, theta_P[None], x_NK)[0]
        spread = np.sqrt(np.mean((y_N - middle_N) ** 2))
        kind, y_SN = "normal noise", middle_N + generator.normal(0.0, spread, (count, rows))
        weights_SN = 1.0
    starts_SP = np.repeat(theta_P[None], count, axis=0)
    draws_SP, value_S = solver.minimize(
        law.function, objective, starts_SP, x_NK, y_SN, weights_SN, stages=objective.near_stages
    )
    return draws_SP[np.isfinite(value_S)], kind


def widening_factor(rows: int, parameters: int, level: float) -> float:
    """Returns sqrt(n / (n - p)) times the quantile of Student's t over that of the normal."""
    freedom = max(rows - parameters, 1)
    upper = (1 + level) / 2
    return math.sqrt(rows / freedom) * float(special.stdtrit(freedom, upper) / special.ndtri(upper))


def estimate_parameters(result: Fit) -> dict[str, Estimate]:
    """Returns every parameter as papers print it, with its standard error and interval."""
    law, level = result.law, result.level
    low_P, high_P = np.quantile(result.widened_draws(), [(1 - level) / 2, (1 + level) / 2], axis=0)
    value_P, low_P, high_P = (law.values(each) for each in (result.theta, low_P, high_P))
    error_P = law.values(result.draws).std(axis=0, ddof=1)
    return {
        name: Estimate(float(value_P[i]), float(error_P[i]), float(low_P[i]), float(high_P[i]), not why, why)
        for i, (name, why) in enumerate(zip(law.parameters, result.identification.reasons, strict=True))
    }

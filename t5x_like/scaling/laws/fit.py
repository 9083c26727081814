"""A law fitted to a table: parameters with intervals, a certificate of the optimum, and predictions for new runs.

    table = table.read("runs.csv")
    found = fit.fit(table, laws.CHINCHILLA)
    found.parameters["alpha"]            # Estimate(value, standard_error, low, high, identified, why)
    found.predict({"n_params": [7e10], "tokens": [1.4e12]})   # Prediction(value_N, low_N, high_N, level)
    found.write("fit.json"), fit.read("fit.json")

Standard errors are those of bootstrap refits, intervals their percentiles around the estimate. In large tables rows are
resampled. In small ones (fewer than RESAMPLED rows a parameter) that would often leave no design to fit, and a robust fit goes
through as many rows as it has parameters, so resampled residuals are too many zeros: normal noise of the residuals' size is
drawn. Both are widened by sqrt(n / (n - p)) and Student's t over the normal.
A prediction interval is for one new run: parameters and the scatter of single runs (seeds) together. It holds as far as the
law itself does, which no resampling can tell: the leave-future-out score (score.py) is the check on that.
"""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy import special

from t5x_like.scaling.laws import checks, laws, solver
from t5x_like.scaling.laws.identifiability import Identification, identify
from t5x_like.scaling.laws.laws import Law
from t5x_like.scaling.laws.solver import HUBER, Objective
from t5x_like.scaling.laws.table import Step, Table

BASIN = 1e-4  # starts that end within this share of the lowest objective are in its basin
RESAMPLED = 10  # rows a parameter from which on rows are resampled


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A parameter: value, bootstrap standard error and interval; `why` says what speaks against it."""

    value: float
    standard_error: float
    low: float
    high: float
    identified: bool
    why: str


@dataclasses.dataclass(frozen=True)
class Certificate:
    """How many starts there were, the share that ended in the best basin, and the objective there."""

    starts: int
    share: float
    objective: float


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The target for new runs, each with the interval that holds it with probability `level`."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    level: float


@dataclasses.dataclass(frozen=True)
class Fit:
    """What `fit` found: theta, theta of the bootstrap refits, and the residuals y - law(x) of the rows used."""

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
    ranges: Mapping[str, tuple[float, float]]  # of the inputs in the rows used

    @property
    def rows(self) -> int:
        return len(self.residuals)

    @property
    def constants(self) -> dict[str, float]:
        return self.law.constants(self.theta)

    @property
    def noise(self) -> float:
        """Standard deviation of a run's residual, on the law's scale (relative, where the target is taken as log)."""
        return float(np.sqrt(np.sum(self.residuals**2) / max(self.rows - len(self.theta), 1)))

    def spread(self, level: float | None = None) -> np.ndarray:
        """The bootstrap draws of theta, widened for intervals that hold with probability `level`."""
        return self.theta + (self.draws - self.theta) * widening(self.rows, len(self.theta), level or self.level)

    def predict(self, columns: Mapping[str, Sequence[float]], level: float | None = None) -> Prediction:
        """The target of single new runs, given their inputs (the law's, by column).

        Raises:
          KeyError, ValueError: an input is missing.
        """
        level = self.level if level is None else level
        x_NK = self.law.features({name: np.atleast_1d(columns[name]) for name in self.law.inputs})
        middle_N = laws.evaluate(self.law.function, self.theta[None], x_NK)[0]
        draws_SN = laws.evaluate(self.law.function, self.spread(level), x_NK)
        generator = np.random.default_rng(0)  # a prediction does not change from call to call
        scatter = self.residuals * widening(self.rows, len(self.theta), level)
        draws_SN = draws_SN + generator.choice(scatter, draws_SN.shape)
        low_N, high_N = np.quantile(draws_SN, [(1 - level) / 2, (1 + level) / 2], axis=0)
        return Prediction(*(self.law.untransformed(y_N) for y_N in (middle_N, low_N, high_N)), level)

    def write(self, path) -> None:
        """JSON that `read` gives back."""
        arrays = {name: getattr(self, name).tolist() for name in ("theta", "draws", "residuals")}
        kept = {name: getattr(self, name) for name in ("bootstrap", "level", "ranges")}
        law = {"name": self.law.name, "inputs": self.law.inputs, "target": self.law.target}
        parts = {
            name: dataclasses.asdict(getattr(self, name)) for name in ("objective", "identification", "certificate")
        }
        parameters = {name: dataclasses.asdict(each) for name, each in self.parameters.items()}
        steps = [dataclasses.asdict(step) for step in self.steps]
        Path(path).write_text(
            json.dumps({"law": law, "parameters": parameters, "steps": steps} | kept | parts | arrays) + "\n"
        )


def read(path) -> Fit:
    """A fit written by `Fit.write`.

    Raises:
      ValueError: the file is none.
    """
    try:
        kept = json.loads(Path(path).read_text())
        law = laws.named(kept["law"]["name"], tuple(kept["law"]["inputs"]), kept["law"]["target"])
        return Fit(
            law=law,
            objective=Objective(**kept["objective"]),
            theta=np.array(kept["theta"]),
            draws=np.array(kept["draws"]),
            residuals=np.array(kept["residuals"]),
            parameters={name: Estimate(**each) for name, each in kept["parameters"].items()},
            identification=Identification(**kept["identification"]),
            certificate=Certificate(**kept["certificate"]),
            bootstrap=kept["bootstrap"],
            level=kept["level"],
            steps=tuple(Step(**step) for step in kept["steps"]),
            ranges={name: tuple(pair) for name, pair in kept["ranges"].items()},
        )
    except (KeyError, TypeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no fit ({error!r}); write one with t5x_like fit TABLE --out={path}") from None


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

    Raises:
      ValueError: the table cannot be fitted, for a reason that checks.prepared names.
    """
    table = checks.prepared(table, law)
    generator = np.random.default_rng(seed)
    x_NK, y_N = law.features(table), law.targets(table)
    theta_P, certificate = optimum(law, objective, x_NK, y_N, starts, generator)
    residuals = y_N - laws.evaluate(law.function, theta_P[None], x_NK)[0]
    draws, kind = bootstrap(law, objective, theta_P, x_NK, y_N, bootstraps, generator)
    identification = identify(law, objective, theta_P, x_NK, y_N, level)
    found = Fit(
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
    return dataclasses.replace(found, parameters=estimates(found))


def optimum(law, objective, x_NK, y_N, starts, generator) -> tuple[np.ndarray, Certificate]:
    """The best of many starts, and how many agree."""
    grid_SP = some(law.grid(x_NK, y_N), starts, generator)
    theta_SP, value_S = solver.minimize_merging(law.function, objective, grid_SP, x_NK, y_N)
    if not np.isfinite(value_S).any():
        raise ValueError(
            f"no start of {law.name} gives finite predictions; are {', '.join(law.inputs)} in their units?"
        )
    best_SP = np.unique(theta_SP[np.argsort(value_S, kind="stable")[: solver.BATCH]], axis=0)
    best_SP, polished_S = solver.minimize(law.function, objective, best_SP, x_NK, y_N, stages=objective.polish)
    lowest = min(value_S.min(), polished_S.min())
    theta_P = best_SP[polished_S.argmin()] if polished_S.min() <= value_S.min() else theta_SP[value_S.argmin()]
    share = np.mean(value_S <= lowest * (1 + BASIN) + 1e-300)
    return theta_P, Certificate(len(grid_SP), float(share), float(lowest))


def some(grid_SP: np.ndarray, count: int | None, generator: np.random.Generator) -> np.ndarray:
    """A grid, or `count` of its points by chance."""
    if count is None or count >= len(grid_SP):
        return grid_SP
    return grid_SP[generator.choice(len(grid_SP), count, replace=False)]


def bootstrap(law, objective, theta_P, x_NK, y_N, count, generator) -> tuple[np.ndarray, str]:
    """(draws_SP, what was drawn): refits that start at the optimum."""
    rows = len(y_N)
    if rows >= RESAMPLED * len(theta_P):
        kind, y_SN = "rows resampled", y_N
        weights_SN = generator.multinomial(rows, np.full(rows, 1 / rows), count)
    else:
        middle_N = laws.evaluate(law.function, theta_P[None], x_NK)[0]
        spread = np.sqrt(np.mean((y_N - middle_N) ** 2))
        kind, y_SN = "normal noise", middle_N + generator.normal(0.0, spread, (count, rows))
        weights_SN = 1.0
    starts_SP = np.repeat(theta_P[None], count, axis=0)
    draws_SP, value_S = solver.minimize(
        law.function, objective, starts_SP, x_NK, y_SN, weights_SN, stages=objective.close
    )
    return draws_SP[np.isfinite(value_S)], kind


def widening(rows: int, parameters: int, level: float) -> float:
    """How much wider than residuals suggest: sqrt(n / (n - p)), and Student's t over the normal."""
    freedom = max(rows - parameters, 1)
    upper = (1 + level) / 2
    return math.sqrt(rows / freedom) * float(special.stdtrit(freedom, upper) / special.ndtri(upper))


def estimates(found: Fit) -> dict[str, Estimate]:
    """Every parameter as papers print it."""
    law, level = found.law, found.level
    low_P, high_P = np.quantile(found.spread(), [(1 - level) / 2, (1 + level) / 2], axis=0)
    value_P, low_P, high_P = (law.values(each) for each in (found.theta, low_P, high_P))
    error_P = law.values(found.draws).std(axis=0, ddof=1)
    return {
        name: Estimate(*(float(each[i]) for each in (value_P, error_P, low_P, high_P)), not why, why)
        for i, (name, why) in enumerate(zip(law.parameters, found.identification.reasons, strict=True))
    }

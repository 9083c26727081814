"""Backtests of laws: fitted to the smaller runs of a table, scored on the larger ones. Laws are ranked by this error alone."""

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np

from t5x_like.scaling.laws import checks, laws, solver
from t5x_like.scaling.laws.fit import subsample_grid
from t5x_like.scaling.laws.laws import Law
from t5x_like.scaling.laws.solver import HUBER, Objective
from t5x_like.scaling.laws.table import Table

SIZE_TOLERANCE = 0.01  # sizes within this share of each other are equal and stay on one side of a cut
CUTS = (0.5, 0.6, 0.7, 0.8)  # shares of the rows, by size, that are fitted


@dataclasses.dataclass(frozen=True)
class Fold:
    """One cut: rows fitted and held out, the largest held-out size over the largest fitted, and the error (log or absolute)."""

    fitted_rows: int
    held_out_rows: int
    extrapolation: float
    error: float


@dataclasses.dataclass(frozen=True)
class Backtest:
    """Root mean square error on larger runs, averaged over folds; NaN if the table leaves no runs to hold out."""

    law: Law
    error: float
    folds: tuple[Fold, ...]
    size_column: str

    def __str__(self) -> str:
        if not self.folds:
            return "no backtest: too few sizes to hold the larger ones out"
        extrapolation = max(fold.extrapolation for fold in self.folds)
        unit = f"{100 * self.error:.3g}%" if self.law.log_target else f"{self.error:.4g}"
        return (
            f"{unit} error on held-out larger runs ({len(self.folds)} cuts by {self.size_column}, up to {extrapolation:.3g}x "
            "the largest fitted)"
        )


def leave_future_out(table: Table, law: Law, objective: Objective = HUBER, seed: int = 0) -> Backtest:
    """Fits the smallest runs of `table` and predicts the rest, at every cut."""
    table = checks.prepare(table, law)
    size_column, size_N = run_sizes(table, law)
    x_NK, y_N = law.features(table), law.targets(table)
    masks = choose_cuts(size_N, law.min_rows)
    if not masks:
        return Backtest(law, math.nan, (), size_column)
    fitted_FN = np.array(masks)
    theta_FP = fit_folds(law, objective, x_NK, y_N, fitted_FN, np.random.default_rng(seed))
    error_FN = laws.evaluate(law.function, theta_FP, x_NK) - y_N
    folds = [
        Fold(int(mask.sum()), int((~mask).sum()), size_N.max() / size_N[mask].max(), rms(error[~mask]))
        for mask, error in zip(fitted_FN, error_FN, strict=True)
    ]
    return Backtest(law, float(np.mean([fold.error for fold in folds])), tuple(folds), size_column)


def compare(table: Table, candidates: Sequence[Law], objective: Objective = HUBER, seed: int = 0) -> list[Backtest]:
    """Backtests several laws of one target on the rows that all of them can use, best first."""
    for law in candidates:
        table = checks.prepare(table, law)
    backtests = [leave_future_out(table, law, objective, seed) for law in candidates]
    return sorted(backtests, key=lambda each: math.inf if math.isnan(each.error) else each.error)


def run_sizes(table: Table, law: Law) -> tuple[str, np.ndarray]:
    """Returns the column that orders runs, and sizes: compute, else the law's first input; for a law of the loss, 1 / loss."""
    for name in ("flops_6nd", "flops_exact", "flops_with_embeddings"):
        if name in table and np.isfinite(table[name]).all():
            return name, table[name]
    name = law.inputs[0]
    return name, 1 / table[name] if name.startswith("loss") else table[name]


def choose_cuts(size_N: np.ndarray, min_rows: int) -> list[np.ndarray]:
    """Returns masks of the rows to fit: cuts between different sizes, nearest to CUTS, with at least `min_rows` fitted."""
    ordered = np.unique(size_N)
    limits = ordered[:-1][np.diff(ordered) > SIZE_TOLERANCE * ordered[:-1]]
    masks = [mask for limit in limits if (mask := size_N <= limit).sum() >= min_rows]
    share = np.array([mask.mean() for mask in masks])
    nearest = sorted({int(np.abs(share - cut).argmin()) for cut in CUTS}) if masks else []
    return [masks[i] for i in nearest]


def fit_folds(
    law: Law,
    objective: Objective,
    x_NK: np.ndarray,
    y_N: np.ndarray,
    fitted_FN: np.ndarray,
    generator: np.random.Generator,
) -> np.ndarray:
    """Returns theta_FP: for every fold, the best of a batch of starts."""
    starts = [subsample_grid(law.grid(x_NK[mask], y_N[mask]), solver.BATCH, generator) for mask in fitted_FN]
    weights = np.repeat(fitted_FN.astype(float), [len(each) for each in starts], axis=0)
    theta_SP, value_S = solver.minimize(law.function, objective, np.concatenate(starts), x_NK, y_N, weights)
    ends = np.cumsum([0, *map(len, starts)])
    return np.array([theta_SP[a + np.argmin(value_S[a:b])] for a, b in itertools.pairwise(ends)])


def rms(errors: np.ndarray) -> float:
    """Returns the root mean square."""
    return float(np.sqrt(np.mean(errors**2)))

"""How a law would have done: fitted to the smaller runs of a table, judged on the larger ones. Forms are ranked by this alone."""

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np

from t5x_like.scaling.laws import checks, laws, solver
from t5x_like.scaling.laws.fit import some
from t5x_like.scaling.laws.laws import Law
from t5x_like.scaling.laws.solver import HUBER, Objective
from t5x_like.scaling.laws.table import Table

SAME = 0.01  # sizes within this share of each other are one, and never cut apart
CUTS = (0.5, 0.6, 0.7, 0.8)  # shares of the rows, by size, that are fitted


@dataclasses.dataclass(frozen=True)
class Fold:
    """One cut: rows fitted and judged, how many times larger the largest judged run is, and the error (log or absolute)."""

    fitted: int
    judged: int
    times: float
    error: float


@dataclasses.dataclass(frozen=True)
class Score:
    """Root mean square error on future runs, averaged over folds; NaN where the table leaves none to judge."""

    law: Law
    error: float
    folds: tuple[Fold, ...]
    by: str

    def __str__(self) -> str:
        if not self.folds:
            return "no score: too few sizes to leave the larger ones out"
        times = max(fold.times for fold in self.folds)
        unit = f"{100 * self.error:.3g}%" if self.law.log_target else f"{self.error:.4g}"
        return f"{unit} error on later runs ({len(self.folds)} cuts by {self.by}, up to {times:.3g}x the fitted)"


def leave_future_out(table: Table, law: Law, objective: Objective = HUBER, seed: int = 0) -> Score:
    """Fits the smallest runs of `table` and predicts the rest, at every cut."""
    table = checks.prepared(table, law)
    by, size_N = sizes(table, law)
    x_NK, y_N = law.features(table), law.targets(table)
    folds = cuts(size_N, law.least_rows)
    if not folds:
        return Score(law, math.nan, (), by)
    past_FN = np.array(folds)
    theta_FP = fitted(law, objective, x_NK, y_N, past_FN, np.random.default_rng(seed))
    error_FN = laws.evaluate(law.function, theta_FP, x_NK) - y_N
    judged = [
        Fold(int(past.sum()), int((~past).sum()), size_N.max() / size_N[past].max(), rms(error[~past]))
        for past, error in zip(past_FN, error_FN, strict=True)
    ]
    return Score(law, float(np.mean([fold.error for fold in judged])), tuple(judged), by)


def compare(table: Table, forms: Sequence[Law], objective: Objective = HUBER, seed: int = 0) -> list[Score]:
    """Scores of several laws of one target on the rows all of them can use, best first."""
    for law in forms:
        table = checks.prepared(table, law)
    scores = [leave_future_out(table, law, objective, seed) for law in forms]
    return sorted(scores, key=lambda score: math.inf if math.isnan(score.error) else score.error)


def sizes(table: Table, law: Law) -> tuple[str, np.ndarray]:
    """What "later" means: more compute, else more of the law's first input; of a law of the loss, lower loss."""
    for name in ("flops_6nd", "flops_exact", "flops_with_embeddings"):
        if name in table and np.isfinite(table[name]).all():
            return name, table[name]
    name = law.inputs[0]
    return name, 1 / table[name] if name.startswith("loss") else table[name]


def cuts(size_N: np.ndarray, least: int) -> list[np.ndarray]:
    """Masks of the past: cuts between two sizes that differ, nearest to the shares CUTS, with `least` rows to fit."""
    ordered = np.unique(size_N)
    limits = ordered[:-1][np.diff(ordered) > SAME * ordered[:-1]]
    past = [mask for limit in limits if (mask := size_N <= limit).sum() >= least]
    share = np.array([mask.mean() for mask in past])
    chosen = sorted({int(np.abs(share - cut).argmin()) for cut in CUTS}) if past else []
    return [past[i] for i in chosen]


def fitted(law: Law, objective: Objective, x_NK, y_N, past_FN, generator) -> np.ndarray:
    """theta of every fold, the best of a batch of starts."""
    starts = [some(law.grid(x_NK[past], y_N[past]), solver.BATCH, generator) for past in past_FN]
    weights = np.repeat(past_FN.astype(float), [len(each) for each in starts], axis=0)
    theta_SP, value_S = solver.minimize(law.function, objective, np.concatenate(starts), x_NK, y_N, weights)
    ends = np.cumsum([0, *map(len, starts)])
    return np.array([theta_SP[a + np.argmin(value_S[a:b])] for a, b in itertools.pairwise(ends)])


def rms(errors: np.ndarray) -> float:
    return float(np.sqrt(np.mean(errors**2)))

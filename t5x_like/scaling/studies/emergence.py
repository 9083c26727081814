"""Tests whether an ability emerges with size or only its metric does.

An answer of L tokens is correct when all of them are: with independent tokens p^L, which stays at 0 and then rises sharply
where p itself rises smoothly (Schaeffer et al. 2023, arXiv:2304.15004). So the exact metric is compared with the one per token:
where it leaves chance, whether p^L predicts it, and whether the cost of a token has a break.

    result = analyze_emergence(table, length=8, items=500)
    result.verdict     # "metric resolution": exact match leaves chance abruptly, the cost of a token has no break
    average_by_size(table, ("exact_match", "token_accuracy", "loss"))   # capability curves
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from t5x_like.scaling.laws.table import Table
from t5x_like.scaling.studies import power_analysis
from t5x_like.text_metrics.bootstrap import wilson

ABSENT, GRADUAL, BREAK = "absent", "gradual", "break"
RESOLUTION, UNCLEAR = "metric resolution", "too few sizes around the threshold"
MIN_SIDE = 3  # sizes on either side of a break
DEGREES = (1, 2, 3)  # of smooth curves
BENDS = (0.25, 0.5, 1.0)  # exponents of smooth curves with a floor
PLACES = 6  # places where those curves bend


@dataclasses.dataclass(frozen=True)
class Break:
    """The best break, between sizes `below` and `above`, and the evidence for it.

    Errors are root mean squares of the log cost on left-out sizes; `p_value` is how often a smooth curve with the same noise
    shows as much evidence for a break.
    """

    below: float
    above: float
    smooth_error: float
    broken_error: float
    p_value: float


@dataclasses.dataclass(frozen=True)
class Emergence:
    """The verdict, the size at which the exact metric leaves chance, the best break, and curves by size [N].

    `low_N` and `high_N` are the intervals of the exact metric. `predicted_N` is p^L; `explained` tells whether all its values
    are inside those intervals.
    """

    verdict: str
    threshold: float | None
    best_break: Break
    size_N: np.ndarray
    exact_N: np.ndarray
    low_N: np.ndarray
    high_N: np.ndarray
    predicted_N: np.ndarray
    explained: bool


def measure_answers(logp_BL: np.ndarray, correct_BL: np.ndarray, weights_BL: np.ndarray) -> dict[str, float]:
    """Computes metrics of answers B, from the log-probability of each token and whether it is the most likely one.

    Returns exact_match (0-1), token_accuracy (0-1), loss (nats per token), wrong_tokens (per answer: the edit distance with
    substitutions only), brier ((1 - probability of the answer)^2, 0 is best) and items.

    Raises:
      ValueError: all weights are 0.
    """
    counts_BL = np.asarray(weights_BL) > 0
    items = int(counts_BL.any(axis=1).sum())
    if not items:
        raise ValueError("no answer has a token with weight; give weights above 0")
    answers_BL = counts_BL[counts_BL.any(axis=1)]
    logp_BL, correct_BL = (np.asarray(x)[counts_BL.any(axis=1)] for x in (logp_BL, correct_BL))
    wrong_B = np.sum(answers_BL & ~correct_BL, axis=1)
    answer_B = np.exp(np.sum(logp_BL * answers_BL, axis=1))
    return {
        "exact_match": float(np.mean(wrong_B == 0)),
        "token_accuracy": float(correct_BL[answers_BL].mean()),
        "loss": float(-logp_BL[answers_BL].mean()),
        "wrong_tokens": float(wrong_B.mean()),
        "brier": float(np.mean((1 - answer_B) ** 2)),
        "items": items,
    }


def predict_exact_match(token_accuracy_N: ArrayLike, lengths: int | Sequence[int]) -> np.ndarray:
    """Returns the exact match [N] of answers of `lengths` independent tokens: the mean of p^L."""
    return np.mean(np.asarray(token_accuracy_N, np.float64)[:, None] ** np.atleast_1d(lengths), axis=1)


def average_by_size(table: Table, metrics: Sequence[str], size: str = "n_params") -> dict[str, np.ndarray]:
    """Returns capability curves: the mean of each metric over the runs of a size, sizes ascending, and the number of "runs".

    Runs without a size or one of the metrics are left out.
    """
    value = {name: table.numbers(name) for name in (size, *metrics)}
    complete_R = np.all([np.isfinite(each) for each in value.values()], axis=0)
    size_N, index_R = np.unique(value[size][complete_R], return_inverse=True)
    runs_N = np.bincount(index_R)
    means = {name: np.bincount(index_R, value[name][complete_R]) / runs_N for name in metrics}
    return {size: size_N, **means, "runs": runs_N}


def find_threshold(
    size_N: ArrayLike, correct_N: ArrayLike, items_N: ArrayLike, chance: float, alpha: float = 0.05
) -> float | None:
    """Returns the smallest size from which all sizes are above chance; None if the largest is not.

    One-sided binomial tests, `alpha` over their number (Bonferroni).
    """
    sizes, correct, items = (np.asarray(each).tolist() for each in (size_N, correct_N, items_N))
    threshold = None
    for size, right, count in sorted(zip(sizes, correct, items, strict=True), reverse=True):
        if power_analysis.chance_p_value(int(right), int(count), chance) * len(sizes) >= alpha:
            break
        threshold = float(size)
    return threshold


def token_cost(share_N: ArrayLike, items_N: ArrayLike) -> np.ndarray:
    """Returns -log of shares of correct items, in nats; half an item is added to both counts, so that 0 and 1 stay finite."""
    count_N = np.asarray(items_N, np.float64)
    return -np.log((np.asarray(share_N) * count_N + 0.5) / (count_N + 1))


def fit_break(size_R: ArrayLike, cost_R: ArrayLike, samples: int = 1000, seed: int = 0) -> Break:
    """Finds the best break of a token's cost (nats, or another falling error) over the sizes of runs R, and tests it.

    log cost is fitted over log size, where power laws are lines and p and p^L are parallel. Smooth curves are polynomials of
    degree 1 to 3 and power laws with a floor; a break has a line on either side. The best curve of each kind, by the error on
    left-out sizes, is compared by log(smooth / broken). `samples` draws under the smooth curve, with the place of the break
    free, give the p-value.

    Raises:
      ValueError: too few sizes, or a cost that is not positive.
    """
    x_R, costs_R = np.log(np.asarray(size_R, np.float64)), np.asarray(cost_R, np.float64)
    sizes = np.unique(x_R)
    if len(sizes) < 2 * MIN_SIDE:
        raise ValueError(f"{len(sizes)} sizes cannot show a break; at least {2 * MIN_SIDE} are needed, 10 are better")
    if not (np.isfinite(costs_R) & (costs_R > 0)).all():
        raise ValueError(
            f"costs go down to {costs_R.min()}; they must be positive numbers: token_cost(share, items) of shares"
        )
    y_R = np.log(costs_R)
    smooth, lines = smooth_designs(x_R), two_line_designs(x_R)
    error_of = functools.partial(left_out_errors, [left_out_residuals(d, x_R) for d in smooth])
    broken_error_of = functools.partial(left_out_errors, [left_out_residuals(d, x_R) for d in lines])
    errors, broken_errors = error_of(y_R[None])[:, 0], broken_error_of(y_R[None])[:, 0]
    design = smooth[int(errors.argmin())]
    curve_R = design @ np.linalg.lstsq(design, y_R, rcond=None)[0]
    spread = np.sqrt(np.sum((y_R - curve_R) ** 2) / (len(y_R) - design.shape[1]))
    draws_SR = curve_R + np.random.default_rng(seed).normal(0.0, spread, (samples, len(y_R)))
    chance_S = error_of(draws_SR).min(0) / broken_error_of(draws_SR).min(0)
    ratio = errors.min() / broken_errors.min()
    place = int(broken_errors.argmin()) + MIN_SIDE
    return Break(
        below=float(np.exp(sizes[place - 1])),
        above=float(np.exp(sizes[place])),
        smooth_error=float(np.sqrt(errors.min())),
        broken_error=float(np.sqrt(broken_errors.min())),
        p_value=float((1 + np.sum(chance_S >= ratio)) / (1 + samples)),
    )


def smooth_designs(x_R: np.ndarray) -> list[np.ndarray]:
    """Returns designs of polynomials and of log(1 + (X_0 / X)^p), a power law with a floor."""
    z_R = (x_R - x_R.mean()) / np.ptp(x_R)
    powers = [np.stack([z_R**k for k in range(degree + 1)], axis=1) for degree in DEGREES]
    places = np.linspace(x_R.min(), x_R.max(), PLACES)
    floors = [np.logaddexp(0.0, -bend * (x_R - place)) for bend in BENDS for place in places]
    return powers + [np.stack([np.ones_like(x_R), floor], axis=1) for floor in floors]


def two_line_designs(x_R: np.ndarray) -> list[np.ndarray]:
    """Returns designs of two lines, continuous or not, with a break between two sizes."""
    sizes = np.unique(x_R)
    z_R = (x_R - x_R.mean()) / np.ptp(x_R)
    after = [(x_R >= sizes[place]).astype(float) for place in range(MIN_SIDE, len(sizes) - MIN_SIDE + 1)]
    return [np.stack([np.ones_like(z_R), z_R, above, above * z_R], axis=1) for above in after]


def left_out_residuals(design: np.ndarray, x_R: np.ndarray) -> np.ndarray:
    """Returns the matrix [R, R] from y to residuals with the run's own size left out of least squares: (I - H)_ss^-1 (I - H)."""
    rest_RR = np.eye(len(x_R)) - design @ np.linalg.pinv(design)
    left_out_RR = np.zeros_like(rest_RR)
    for size in np.unique(x_R):
        rows = np.flatnonzero(x_R == size)
        left_out_RR[rows] = np.linalg.solve(rest_RR[np.ix_(rows, rows)], rest_RR[rows])
    return left_out_RR


def left_out_errors(matrices: Sequence[np.ndarray], y_SR: np.ndarray) -> np.ndarray:
    """Returns the mean squared left-out residuals of every design for every y, [designs, S]."""
    return np.array([np.mean((y_SR @ matrix.T) ** 2, axis=-1) for matrix in matrices])


def analyze_emergence(
    table: Table,
    length: int | Sequence[int],
    items: int,
    chance: float = 0.0,
    size: str = "n_params",
    exact: str = "exact_match",
    tokens: str = "token_accuracy",
    alpha: float = 0.05,
) -> Emergence:
    """Analyzes two columns of shares (0-1) of a table of runs, each evaluated on `items` answers of `length` tokens.

    The verdict is "absent" if the largest size is not above chance; "break" if the cost of a token has a break; else "gradual"
    if the smallest size is above chance; else "metric resolution", or UNCLEAR if fewer than 3 sizes lie on a side of the
    threshold, because a break there could not be detected. Without evidence for a break there may still be one: with few
    sizes or noisy runs only large breaks are detected.

    Raises:
      ValueError: too few sizes, or values that are not shares.
    """
    for name in (exact, tokens):
        if not ((table[name] >= 0) & (table[name] <= 1)).all():
            raise ValueError(
                f"column {name!r} runs from {table[name].min()} to {table[name].max()}; give shares, 0 to 1"
            )
    curves = average_by_size(table, (exact, tokens), size)
    size_N, items_N = curves[size], items * curves["runs"]
    correct_N = np.rint(curves[exact] * items_N).astype(int)
    threshold = find_threshold(size_N, correct_N, items_N, chance, alpha)
    token_items = items * np.mean(length)
    best_break = fit_break(table[size], token_cost(table[tokens], token_items))
    predicted_N = predict_exact_match(curves[tokens], length)
    level = 1 - alpha / len(size_N)
    low_N, high_N = np.array([wilson(r, n, level) for r, n in zip(correct_N.tolist(), items_N.tolist(), strict=True)]).T
    explained = bool(np.all((low_N <= predicted_N) & (predicted_N <= high_N)))
    verdict = choose_verdict(threshold, size_N, best_break.p_value < alpha)
    return Emergence(verdict, threshold, best_break, size_N, curves[exact], low_N, high_N, predicted_N, explained)


def choose_verdict(threshold: float | None, size_N: np.ndarray, has_break: bool) -> str:
    """Returns the verdict for a threshold among sizes."""
    if threshold is None:
        return ABSENT
    if has_break:
        return BREAK
    if threshold == size_N[0]:
        return GRADUAL
    below = int(np.sum(size_N < threshold))
    return RESOLUTION if min(below, len(size_N) - below) >= MIN_SIDE else UNCLEAR

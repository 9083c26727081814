"""Whether an ability emerges with size, or only its metric does.

An answer of L tokens is right when all of them are: with independent tokens p^L, which stays at 0 and then shoots up where
p itself rises smoothly (Schaeffer et al. 2023, arXiv:2304.15004). So the exact metric is read beside the one per token:
where does it leave chance, does p^L foretell it, and is there a break in what a token costs?

    found = emergence(table, length=8, items=500)
    found.verdict      # "metric resolution": exact match leaves chance all at once, the cost of a token does not break
    by_size(table, ("exact_match", "token_accuracy", "loss"))   # capability curves
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from t5x_like.scaling.laws.table import Table
from t5x_like.scaling.studies import power_analysis
from t5x_like.text_metrics.bootstrap import wilson

ABSENT, GRADUAL, BREAK = "absent", "gradual", "break"
RESOLUTION, UNCLEAR = "metric resolution", "too few sizes around the threshold"
SIDE = 3  # sizes that a break has at least on either side
DEGREES = (1, 2, 3)  # of smooth curves
BENDS, PLACES = (0.25, 0.5, 1.0), 6  # of smooth curves to a floor: exponents, and where they turn


@dataclasses.dataclass(frozen=True)
class Break:
    """The best place for a break, between two sizes, and whether the curve needs one.

    Errors are root mean squares on sizes that were left out, of the log of the cost; `p_value` is how often a smooth curve
    with the same noise would seem to need a break as much.
    """

    below: float
    above: float
    smooth_error: float
    broken_error: float
    p_value: float


@dataclasses.dataclass(frozen=True)
class Emergence:
    """What `emergence` found: the verdict, the size at which the exact metric leaves chance, and the curves, by size.

    `foretold_N` is p^L; `explained` whether all of them are inside the intervals of the exact metric.
    """

    verdict: str
    threshold: float | None
    broken: Break
    size_N: np.ndarray
    exact_N: np.ndarray
    low_N: np.ndarray
    high_N: np.ndarray
    foretold_N: np.ndarray
    explained: bool


def measured(logp_BL: np.ndarray, right_BL: np.ndarray, weights_BL: np.ndarray) -> dict[str, float]:
    """Metrics side by side of answers B, from their tokens' log-probabilities and whether each is the likeliest.

    exact_match (0-1), token_accuracy (0-1), loss (nats per token), wrong_tokens (per answer: the edit distance where only
    replacing counts), brier ((1 - probability of the answer)^2, 0 is best) and items.
    """
    counts_BL = np.asarray(weights_BL) > 0
    items = int(counts_BL.any(axis=1).sum())
    if not items:
        raise ValueError("no answer has a token that counts; give weights above 0")
    answers_BL = counts_BL[counts_BL.any(axis=1)]
    logp_BL, right_BL = (np.asarray(x)[counts_BL.any(axis=1)] for x in (logp_BL, right_BL))
    wrong_B = np.sum(answers_BL & ~right_BL, axis=1)
    answer_B = np.exp(np.sum(logp_BL * answers_BL, axis=1))
    return {
        "exact_match": float(np.mean(wrong_B == 0)),
        "token_accuracy": float(right_BL[answers_BL].mean()),
        "loss": float(-logp_BL[answers_BL].mean()),
        "wrong_tokens": float(wrong_B.mean()),
        "brier": float(np.mean((1 - answer_B) ** 2)),
        "items": items,
    }


def foretold(token_accuracy_N: Sequence[float], lengths: int | Sequence[int]) -> np.ndarray:
    """The exact match of answers of `lengths` tokens, were their tokens independent: the mean of p^L."""
    return np.mean(np.asarray(token_accuracy_N, np.float64)[:, None] ** np.atleast_1d(lengths), axis=1)


def by_size(table: Table, metrics: Sequence[str], size: str = "n_params") -> dict[str, np.ndarray]:
    """Capability curves: the mean of each metric over the runs of a size, sizes ascending; also "runs", how many.

    A run that lacks its size or one of the metrics is left out.
    """
    value = {name: table.numbers(name) for name in (size, *metrics)}
    whole_R = np.all([np.isfinite(each) for each in value.values()], axis=0)
    size_N, index_R = np.unique(value[size][whole_R], return_inverse=True)
    runs_N = np.bincount(index_R)
    means = {name: np.bincount(index_R, value[name][whole_R]) / runs_N for name in metrics}
    return {size: size_N, **means, "runs": runs_N}


def threshold(
    size_N: Sequence[float], right_N: Sequence[int], items_N: Sequence[int], chance: float, alpha: float = 0.05
) -> float | None:
    """The smallest size from which on every size is above chance; None where the largest is not.

    One-sided binomial tests, `alpha` over their number (Bonferroni).
    """
    found = None
    for size, right, items in sorted(zip(size_N, right_N, items_N, strict=True), reverse=True):
        if power_analysis.above_chance(int(right), int(items), chance) * len(size_N) >= alpha:
            break
        found = float(size)
    return found


def nats(share_N: Sequence[float], items_N: Sequence[int] | int) -> np.ndarray:
    """-log of shares seen on some items, half an item added to rights and wrongs: finite and positive at 0 and 1 too."""
    items_N = np.asarray(items_N, np.float64)
    return -np.log((np.asarray(share_N) * items_N + 0.5) / (items_N + 1))


def broken(size_R: Sequence[float], cost_R: Sequence[float], samples: int = 1000, seed: int = 0) -> Break:
    """Whether what a token costs (nats, or another error that falls) breaks at a size: rows are runs, of several sizes.

    log cost against log size, where power laws are lines and p and p^L run in parallel: smooth curves are polynomials of
    degree 1 to 3 and power laws to a floor, a break has a line on either side. The better of each on sizes that were left
    out are compared, log(smooth / broken); how large that comes out by chance, the place of the break being free, is
    simulated under the smooth curve.

    Raises:
      ValueError: too few sizes, or a cost that is not positive.
    """
    x_R, cost_R = np.log(np.asarray(size_R, np.float64)), np.asarray(cost_R, np.float64)
    sizes = np.unique(x_R)
    if len(sizes) < 2 * SIDE:
        raise ValueError(f"{len(sizes)} sizes show no break; {2 * SIDE} are the least, 10 are better")
    if not (np.isfinite(cost_R) & (cost_R > 0)).all():
        raise ValueError(
            f"costs go down to {cost_R.min()}; they must be positive numbers: nats(share, items) of shares"
        )
    y_R = np.log(cost_R)
    smooth, lines = smooth_designs(x_R), line_designs(x_R)
    error_of = functools.partial(left_out, [left_out_residuals(d, x_R) for d in smooth])
    broken_of = functools.partial(left_out, [left_out_residuals(d, x_R) for d in lines])
    errors, broken_errors = error_of(y_R[None])[:, 0], broken_of(y_R[None])[:, 0]
    design = smooth[int(errors.argmin())]
    curve_R = design @ np.linalg.lstsq(design, y_R, rcond=None)[0]
    spread = np.sqrt(np.sum((y_R - curve_R) ** 2) / (len(y_R) - design.shape[1]))
    drawn_SR = curve_R + np.random.default_rng(seed).normal(0.0, spread, (samples, len(y_R)))
    chance_S = error_of(drawn_SR).min(0) / broken_of(drawn_SR).min(0)
    ratio = errors.min() / broken_errors.min()
    place = int(broken_errors.argmin()) + SIDE
    return Break(
        below=float(np.exp(sizes[place - 1])),
        above=float(np.exp(sizes[place])),
        smooth_error=float(np.sqrt(errors.min())),
        broken_error=float(np.sqrt(broken_errors.min())),
        p_value=float((1 + np.sum(chance_S >= ratio)) / (1 + samples)),
    )


def smooth_designs(x_R: np.ndarray) -> list[np.ndarray]:
    """Designs of polynomials and of log(1 + (X_0 / X)^p): a power law that comes to a floor."""
    z_R = (x_R - x_R.mean()) / np.ptp(x_R)
    powers = [np.stack([z_R**k for k in range(degree + 1)], axis=1) for degree in DEGREES]
    places = np.linspace(x_R.min(), x_R.max(), PLACES)
    floors = [np.logaddexp(0.0, -bend * (x_R - place)) for bend in BENDS for place in places]
    return powers + [np.stack([np.ones_like(x_R), floor], axis=1) for floor in floors]


def line_designs(x_R: np.ndarray) -> list[np.ndarray]:
    """Designs of two lines that meet between two sizes, or do not."""
    sizes = np.unique(x_R)
    z_R = (x_R - x_R.mean()) / np.ptp(x_R)
    after = [(x_R >= sizes[place]).astype(float) for place in range(SIDE, len(sizes) - SIDE + 1)]
    return [np.stack([np.ones_like(z_R), z_R, above, above * z_R], axis=1) for above in after]


def left_out_residuals(design: np.ndarray, x_R: np.ndarray) -> np.ndarray:
    """The matrix that takes y to the residuals of runs whose size was left out of least squares: (I - H)_ss^-1 (I - H)."""
    rest_RR = np.eye(len(x_R)) - design @ np.linalg.pinv(design)
    made_RR = np.zeros_like(rest_RR)
    for size in np.unique(x_R):
        rows = np.flatnonzero(x_R == size)
        made_RR[rows] = np.linalg.solve(rest_RR[np.ix_(rows, rows)], rest_RR[rows])
    return made_RR


def left_out(matrices: Sequence[np.ndarray], y_SR: np.ndarray) -> np.ndarray:
    """Mean squared left-out residuals of every design for every y, [designs, S]."""
    return np.array([np.mean((y_SR @ matrix.T) ** 2, axis=-1) for matrix in matrices])


def emergence(
    table: Table,
    length: int | Sequence[int],
    items: int,
    chance: float = 0.0,
    size: str = "n_params",
    exact: str = "exact_match",
    tokens: str = "token_accuracy",
    alpha: float = 0.05,
) -> Emergence:
    """Reads two columns of shares (0-1) of a table of runs, each evaluated on `items` answers of `length` tokens.

    Verdicts: "absent" where the largest size is not above chance; "break" where the cost of a token breaks; else "gradual"
    where the smallest size is above chance already; else "metric resolution", or, where fewer than 3 sizes lie on either side
    of the threshold, so that a break there could not be seen, that there are too few. No break found is not none there: with
    few sizes, or runs that differ much, only large ones are.

    Raises:
      ValueError: too few sizes, or shares that are none.
    """
    for name in (exact, tokens):
        if not ((table[name] >= 0) & (table[name] <= 1)).all():
            raise ValueError(
                f"column {name!r} runs from {table[name].min()} to {table[name].max()}; give shares, 0 to 1"
            )
    curves = by_size(table, (exact, tokens), size)
    size_N, items_N = curves[size], items * curves["runs"]
    right_N = np.rint(curves[exact] * items_N).astype(int)
    first = threshold(size_N, right_N, items_N, chance, alpha)
    token_items = items * np.mean(length)
    split = broken(table[size], nats(table[tokens], token_items))
    foretold_N = foretold(curves[tokens], length)
    level = 1 - alpha / len(size_N)
    low_N, high_N = np.array([wilson(r, n, level) for r, n in zip(right_N.tolist(), items_N.tolist(), strict=True)]).T
    explained = bool(np.all((low_N <= foretold_N) & (foretold_N <= high_N)))
    verdict = judged(first, size_N, split.p_value < alpha)
    return Emergence(verdict, first, split, size_N, curves[exact], low_N, high_N, foretold_N, explained)


def judged(first: float | None, size_N: np.ndarray, breaks: bool) -> str:
    """The verdict on a threshold among sizes."""
    if first is None:
        return ABSENT
    if breaks:
        return BREAK
    if first == size_N[0]:
        return GRADUAL
    below = int(np.sum(size_N < first))
    return RESOLUTION if min(below, len(size_N) - below) >= SIDE else UNCLEAR

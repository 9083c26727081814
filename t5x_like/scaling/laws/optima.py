"""Tables of optima: the best size per budget (IsoFLOP) or along training curves (envelope), the best lr or batch per size.

Each analysis reduces a table of runs to one row per optimum and fits power laws to its columns. A minimum at the edge of the
range that was tried is not an optimum: it is dropped by name, with the side on which runs are missing.
"""

import dataclasses
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from t5x_like.scaling.laws import checks
from t5x_like.scaling.laws.laws import Law, power_law
from t5x_like.scaling.laws.table import Step, Table, from_rows

AnyTable = TypeVar("AnyTable", bound=Table)
GROUP_TOLERANCE = 0.1  # budgets within this share of each other are one budget
MIN_POINTS = 4  # points of a parabola


@dataclasses.dataclass(frozen=True)
class Analysis:
    """A reduction of a table of runs to a table of optima, and the laws fitted to those."""

    name: str
    summary: str
    laws: Callable[[Table], tuple[Law, ...]]  # of the reduced table
    reduce: Callable[[Table, str], Table]  # (table, target)


def isoflop_optima(table: Table, target: str = "loss") -> Table:
    """Returns the optimal n_params, tokens and target of every budget (Hoffmann et al. 2022, approach 2).

    Raises:
      ValueError: fewer than two budgets have a minimum inside their range of sizes.
    """
    last = checks.keep_last_rows(select_comparable(table, target, "n_params", "flops_6nd"))
    return fit_optima(checks.keep_best_tuned(last, target), "n_params", ("flops_6nd",), target, "model size")


def lr_optima(table: Table, target: str = "loss") -> Table:
    """Returns the optimal learning rate of every (n_params, tokens)."""
    last = checks.keep_last_rows(select_comparable(table, target, "lr", "n_params", "tokens"))
    return fit_optima(last, "lr", ("n_params", "tokens"), target, "learning rate")


def batch_optima(table: Table, target: str = "loss") -> Table:
    """Returns the optimal batch_tokens of every (n_params, tokens), each batch at its best learning rate."""
    table = checks.keep_last_rows(select_comparable(table, target, "batch_tokens", "n_params", "tokens"))
    table = checks.keep_best_tuned(table, target, (*checks.CONFIGURATION, "batch_tokens"))
    return fit_optima(table, "batch_tokens", ("n_params", "tokens"), target, "batch")


def select_finished(table: AnyTable, target: str) -> AnyTable:
    """Derives columns and selects the rows that finished with a target."""
    return checks.select_usable(checks.derive_columns(table), power_law(target))


def select_comparable(table: Table, target: str, *inputs: str) -> Table:
    """Selects the rows that finished with a target and all inputs.

    Raises:
      ValueError: the rows mix FLOP counts or tokenizers.
    """
    law = power_law(target, *inputs)
    table = checks.select_usable(checks.derive_columns(table), law)
    checks.reject_mixed_flops(table)
    checks.reject_mixed_tokenizers(table, law)
    return table


def fit_optima(table: Table, along: str, per: tuple[str, ...], target: str, quantity: str) -> Table:
    """Fits a parabola of the target over log `along` to every group of equal `per`; returns one row per minimum.

    `quantity` names `along` in messages.

    Raises:
      ValueError: fewer than two groups have a minimum inside their range.
    """
    values, rows, steps = table[along], [], list(table.steps)
    for group in group_rows(np.log(np.stack([table[name] for name in per], axis=-1))):
        label = ", ".join(f"{name} {np.exp(np.log(table[name][group]).mean()):.3g}" for name in per)
        (x, y), problem = find_minimum(np.log(values[group]), table[target][group], quantity)
        if problem:
            steps.append(Step(f"no minimum at {label}", len(group), problem))
            continue
        means = {name: float(np.exp(np.log(table[name][group]).mean())) for name in per}
        rows.append(means | {along: float(np.exp(x)), target: float(y)})
    if len(rows) < 2:
        reasons = "; ".join(map(str, steps))
        raise ValueError(
            f"{len(rows)} groups of equal {' and '.join(per)} have a minimum ({reasons}); at least two are needed"
        )
    return dataclasses.replace(checks.derive_columns(from_rows(rows)), steps=tuple(steps))


def group_rows(logs_NK: np.ndarray) -> list[np.ndarray]:
    """Returns the row indices of groups whose sorted values differ by at most GROUP_TOLERANCE in every column."""
    parts = [np.arange(len(logs_NK))]
    for column_N in logs_NK.T:
        split = []
        for part in parts:
            order = part[np.argsort(column_N[part], kind="stable")]
            split += np.split(order, np.flatnonzero(np.diff(column_N[order]) > GROUP_TOLERANCE) + 1)
        parts = split
    return parts


def find_minimum(x_N: np.ndarray, y_N: np.ndarray, quantity: str) -> tuple[tuple[float, float], str]:
    """Fits a parabola; returns ((x, y) of its minimum, "") or (NaNs, why it has none inside the range)."""
    nowhere = (np.nan, np.nan)
    if (count := len(np.unique(x_N.round(6)))) < MIN_POINTS:
        return nowhere, f"{count} different values of {quantity}; a parabola needs {MIN_POINTS}"
    centre = x_N.mean()
    a, b, c = np.polyfit(x_N - centre, y_N, 2)
    if a <= 0:
        return nowhere, f"the curve over {quantity} does not bend upwards"
    x = centre - b / (2 * a)
    if x <= x_N.min() or y_N.argmin() == x_N.argmin():
        return nowhere, f"the minimum is at the lower edge, {quantity} {np.exp(x_N.min()):.3g}: train smaller ones too"
    if x >= x_N.max() or y_N.argmin() == x_N.argmax():
        return nowhere, f"the minimum is at the upper edge, {quantity} {np.exp(x_N.max()):.3g}: train larger ones too"
    return (x, c - b * b / (4 * a)), ""


def envelope_optima(table: Table, target: str = "loss", budgets: int = 1500) -> Table:
    """Returns the models on the lower envelope of training curves over compute (Hoffmann et al. 2022, approach 1).

    A curve is all rows of one run_id (of one n_params without run ids), at several token counts. The best curve is taken at
    `budgets` values of compute, and each best model gives one row, at the geometric middle of its range of compute. The
    smallest and the largest model are left out, because their ranges end where the table does.

    Raises:
      ValueError: fewer than four runs are curves, or fewer than two models are best between the smallest and the largest.
    """
    table = select_comparable(table, target, "n_params", "flops_6nd")
    names = table["run_id"] if "run_id" in table else table["n_params"]
    curves = [np.flatnonzero(names == name) for name in np.unique(names)]
    curves = [rows[np.argsort(table["flops_6nd"][rows])] for rows in curves if len(rows) > 1]
    if len(curves) < 4:
        raise ValueError(
            f"{len(curves)} runs have more than one row; the envelope needs training curves of at least 4 runs"
        )
    size_R = np.array([table["n_params"][rows[0]] for rows in curves])
    log_c = np.log(table["flops_6nd"])
    at_B = np.linspace(log_c.min(), log_c.max(), budgets)
    loss_RB = np.array([np.interp(at_B, log_c[rows], table[target][rows], np.inf, np.inf) for rows in curves])
    size_B = np.where(np.isfinite(loss_RB.min(0)), size_R[loss_RB.argmin(0)], np.nan)
    winners = [size for size in np.unique(size_B[~np.isnan(size_B)]) if size not in (size_R.min(), size_R.max())]
    if len(winners) < 2:
        raise ValueError(
            f"{len(winners)} models between the smallest and the largest are best anywhere; train more sizes, or longer curves"
        )
    rows = [envelope_row(size, at_B[size_B == size], loss_RB.min(0)[size_B == size], target) for size in winners]
    step = Step("envelope", len(table) - len(rows), f"{len(curves)} curves; without the smallest and the largest model")
    return dataclasses.replace(checks.derive_columns(from_rows(rows)), steps=(*table.steps, step))


def envelope_row(size: float, at_B: np.ndarray, loss_B: np.ndarray, target: str) -> dict[str, float]:
    """Returns a model's row, at the middle of the log compute at which it is best."""
    at = at_B.mean()
    return {"n_params": float(size), "flops_6nd": float(np.exp(at)), target: float(np.interp(at, at_B, loss_B))}


def compute_laws(table: Table) -> tuple[Law, ...]:
    """Returns power laws of n_params and tokens over compute."""
    return tuple(power_law(name, "flops_6nd", source="Hoffmann et al. 2022") for name in ("n_params", "tokens"))


def size_laws(target: str) -> Callable[[Table], tuple[Law, ...]]:
    """Returns a function that chooses the power law of `target` over a table.

    Its inputs are those of n_params and tokens that vary, or n_params alone if both vary together.
    """

    def choose_law(table: Table) -> tuple[Law, ...]:
        inputs = [name for name in ("n_params", "tokens") if np.ptp(np.log(table[name])) > GROUP_TOLERANCE]
        if len(inputs) == 2 and abs(np.corrcoef(np.log(table["n_params"]), np.log(table["tokens"]))[0, 1]) > 0.99:
            inputs = inputs[:1]
        return (power_law(target, *inputs, source="Bi et al. 2024; Li et al. 2025 (Step Law)"),)

    return choose_law


ISOFLOP = Analysis(
    "isoflop", "parabola of the loss over log N per budget, power laws of the optima", compute_laws, isoflop_optima
)
ENVELOPE = Analysis(
    "envelope", "best model along the compute axis of training curves, power laws", compute_laws, envelope_optima
)
LR = Analysis("lr", "best learning rate per N and D, a power law of them", size_laws("lr"), lr_optima)
BATCH = Analysis("batch", "best batch per N and D, a power law of them", size_laws("batch_tokens"), batch_optima)
ALL_ANALYSES = (ISOFLOP, ENVELOPE, LR, BATCH)

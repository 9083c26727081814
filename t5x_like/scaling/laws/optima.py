"""Tables of optima: the best size at each budget (IsoFLOP) or of training curves (envelope), the best lr or batch of each size.

Each function here turns a table of runs into a smaller one with a row an optimum, whose columns power laws are then fitted to.
A minimum at the edge of what was tried is no minimum: it is dropped by name, with the side on which runs are missing.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from t5x_like.scaling.laws import checks
from t5x_like.scaling.laws.laws import Law, power_law
from t5x_like.scaling.laws.table import Step, Table, from_rows

NEAR = 0.1  # budgets within this share of each other are one budget
LEAST = 4  # points of a parabola


@dataclasses.dataclass(frozen=True)
class Analysis:
    """Laws that are fitted to what `reduce` makes of a table of runs."""

    name: str
    summary: str
    laws: Callable[[Table], tuple[Law, ...]]  # of the reduced table
    reduce: Callable[[Table, str], Table]  # (table, target)


def isoflop(table: Table, target: str = "loss") -> Table:
    """The optimal n_params, tokens and target of every budget (Hoffmann et al. 2022, approach 2).

    Raises:
      ValueError: fewer than two budgets have a minimum inside their range of sizes.
    """
    tuned = checks.best_tuned(checks.last_rows(comparable(table, target, "n_params", "flops_6nd")), target)
    return optima(tuned, "n_params", ("flops_6nd",), target, "model size")


def best_lr(table: Table, target: str = "loss") -> Table:
    """The optimal learning rate of every (n_params, tokens)."""
    return optima(
        checks.last_rows(comparable(table, target, "lr", "n_params", "tokens")),
        "lr",
        ("n_params", "tokens"),
        target,
        "learning rate",
    )


def best_batch(table: Table, target: str = "loss") -> Table:
    """The optimal batch_tokens of every (n_params, tokens); each batch at its own best learning rate where several were tried."""
    table = checks.last_rows(comparable(table, target, "batch_tokens", "n_params", "tokens"))
    table = checks.best_tuned(table, target, (*checks.CONFIGURATION, "batch_tokens"))
    return optima(table, "batch_tokens", ("n_params", "tokens"), target, "batch")


def usable(table: Table, target: str) -> Table:
    """Derived columns, and rows that finished with a target."""
    return checks.usable(checks.derived(table), power_law(target))


def comparable(table: Table, target: str, *inputs: str) -> Table:
    """Rows that finished with a target and all inputs, in one count of FLOPs and one tokenizer."""
    law = power_law(target, *inputs)
    table = checks.usable(checks.derived(table), law)
    checks.refuse_mixed_flops(table)
    checks.refuse_mixed_tokenizers(table, law)
    return table


def optima(table: Table, along: str, per: tuple[str, ...], target: str, what: str) -> Table:
    """A row for every group of equal `per`: where a parabola of the target over log `along` has its minimum, and its value."""
    values, rows, steps = table[along], [], list(table.steps)
    for group in groups(np.log(np.stack([table[name] for name in per], axis=-1))):
        label = ", ".join(f"{name} {np.exp(np.log(table[name][group]).mean()):.3g}" for name in per)
        found, complaint = lowest(np.log(values[group]), table[target][group], what)
        if complaint:
            steps.append(Step(f"no minimum at {label}", len(group), complaint))
            continue
        middle = {name: float(np.exp(np.log(table[name][group]).mean())) for name in per}
        rows.append(middle | {along: float(np.exp(found[0])), target: float(found[1])})
    if len(rows) < 2:
        told = "; ".join(map(str, steps))
        raise ValueError(
            f"{len(rows)} of the groups of equal {' and '.join(per)} has a minimum ({told}); two are needed at least"
        )
    made = checks.derived(from_rows(rows))
    return dataclasses.replace(made, steps=tuple(steps))


def groups(logs_NK: np.ndarray) -> list[np.ndarray]:
    """Indices of rows whose values follow each other within NEAR in every column."""
    parts = [np.arange(len(logs_NK))]
    for column_N in logs_NK.T:
        split = []
        for part in parts:
            order = part[np.argsort(column_N[part], kind="stable")]
            split += np.split(order, np.flatnonzero(np.diff(column_N[order]) > NEAR) + 1)
        parts = split
    return parts


def lowest(x_N: np.ndarray, y_N: np.ndarray, what: str) -> tuple[tuple[float, float], str]:
    """((x, y) of the minimum of a parabola, why there is none or "")."""
    nowhere = (np.nan, np.nan)
    if (count := len(np.unique(x_N.round(6)))) < LEAST:
        return nowhere, f"{count} different values of {what}; a parabola needs {LEAST}"
    centre = x_N.mean()
    a, b, c = np.polyfit(x_N - centre, y_N, 2)
    if a <= 0:
        return nowhere, f"the curve over {what} does not bend upwards"
    x = centre - b / (2 * a)
    if x <= x_N.min() or y_N.argmin() == x_N.argmin():
        return nowhere, f"the minimum is at the lower edge, {what} {np.exp(x_N.min()):.3g}: train smaller ones too"
    if x >= x_N.max() or y_N.argmin() == x_N.argmax():
        return nowhere, f"the minimum is at the upper edge, {what} {np.exp(x_N.max()):.3g}: train larger ones too"
    return (x, c - b * b / (4 * a)), ""


def envelope(table: Table, target: str = "loss", budgets: int = 1500) -> Table:
    """The model that is best at its part of the compute axis, from training curves (Hoffmann et al. 2022, approach 1).

    A curve is all rows of one run_id (of one n_params where there are none), at several tokens each. The best one is taken at
    `budgets` steps of compute and every best model gives one row, at the geometric middle of its part; the smallest and the
    largest model are left out, for their parts end where the table does.

    Raises:
      ValueError: rows are no curves, or fewer than two models are best between the smallest and the largest.
    """
    table = comparable(table, target, "n_params", "flops_6nd")
    names = table["run_id"] if "run_id" in table else table["n_params"]
    curves = [np.flatnonzero(names == name) for name in np.unique(names)]
    curves = [rows[np.argsort(table["flops_6nd"][rows])] for rows in curves if len(rows) > 1]
    if len(curves) < 4:
        raise ValueError(
            f"{len(curves)} runs have more than one row; the envelope is drawn over training curves of 4 at least"
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
    rows = [middle(size, at_B[size_B == size], loss_RB.min(0)[size_B == size], target) for size in winners]
    step = Step(
        "envelope", len(table) - len(rows), f"{len(curves)} curves; the smallest and the largest model are its edges"
    )
    return dataclasses.replace(checks.derived(from_rows(rows)), steps=(*table.steps, step))


def middle(size: float, at_B: np.ndarray, loss_B: np.ndarray, target: str) -> dict[str, float]:
    """A model's row: the middle of the compute it is best at."""
    at = at_B.mean()
    return {"n_params": float(size), "flops_6nd": float(np.exp(at)), target: float(np.interp(at, at_B, loss_B))}


def of_compute(table: Table) -> tuple[Law, ...]:
    """n_params and tokens as powers of compute."""
    return tuple(power_law(name, "flops_6nd", source="Hoffmann et al. 2022") for name in ("n_params", "tokens"))


def of_runs(target: str) -> Callable[[Table], tuple[Law, ...]]:
    """`target` as a power of those of n_params and tokens that vary, of n_params alone where both vary as one."""

    def choose(table: Table) -> tuple[Law, ...]:
        inputs = [name for name in ("n_params", "tokens") if np.ptp(np.log(table[name])) > NEAR]
        if len(inputs) == 2 and abs(np.corrcoef(np.log(table["n_params"]), np.log(table["tokens"]))[0, 1]) > 0.99:
            inputs = inputs[:1]
        return (power_law(target, *inputs, source="Bi et al. 2024; Li et al. 2025 (Step Law)"),)

    return choose


ISOFLOP = Analysis(
    "isoflop", "parabola of the loss over log N at every budget, power laws of the minima", of_compute, isoflop
)
ENVELOPE = Analysis(
    "envelope", "best model along the compute axis of training curves, power laws", of_compute, envelope
)
LR = Analysis("lr", "best learning rate of every N and D, a power law of them", of_runs("lr"), best_lr)
BATCH = Analysis("batch", "best batch of every N and D, a power law of them", of_runs("batch_tokens"), best_batch)
EVERY = (ISOFLOP, ENVELOPE, LR, BATCH)

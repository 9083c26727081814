"""A report on a table of runs and a law fitted to it: what the page and its figures are drawn from.

made = report.make(table, laws.CHINCHILLA, rules=("flops_6nd>1e20",), forecasts=[forecast.read("forecast.json")])
report_page.write(made, "report.html", png=True)
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from t5x_like.scaling.laws import backtest, checks, filters, optima
from t5x_like.scaling.laws.backtest import Backtest
from t5x_like.scaling.laws.fit import Fit, fit
from t5x_like.scaling.laws.laws import Law
from t5x_like.scaling.laws.solver import HUBER, Objective
from t5x_like.scaling.laws.table import Table
from t5x_like.scaling.planning import forecast
from t5x_like.scaling.planning.forecast import Forecast


@dataclasses.dataclass(frozen=True)
class Tracked(Table):
    """A table that notes in `fates` which rule dropped which row, by its first number."""

    fates: dict[int, str] = dataclasses.field(default_factory=dict)

    def drop(self, rule: str, mask: np.ndarray, why: str) -> "Tracked":
        self.fates.update(dict.fromkeys(self.row_indices[np.asarray(mask, bool)].tolist(), rule))
        return super().drop(rule, mask, why)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A registered forecast and a run at its inputs; `actual` is None where there is no such run yet.

    `fitted`: the run is one of those that the report's own law was fitted to, which says nothing of the forecast.
    """

    forecast: Forecast
    actual: float | None
    verdict: str
    fitted: bool = False

    @property
    def settled(self) -> bool:
        return self.actual is not None and not self.verdict.startswith("not settled")


@dataclasses.dataclass(frozen=True)
class Report:
    """`every` row of the table, those that rules left (`rows`), and those the law was fitted to (`used`)."""

    every: Table
    rows: Table
    used: Tracked
    found: Fit
    future: Backtest
    outcomes: tuple[Outcome, ...]


def make(
    table: Table,
    law: Law,
    rules: Sequence[str] = (),
    forecasts: Sequence[Forecast] = (),
    objective: Objective = HUBER,
    **settings: float | None,
) -> Report:
    """Applies `rules` (filters.apply_rule), fits `law` (`settings` are those of fit.fit), and looks for the runs forecast.

    Raises:
      ValueError: a rule is none, or the rows that are left cannot be fitted.
    """
    every = checks.derive_columns(table)
    rows = Tracked(every.columns, every.steps, np.arange(len(every)))
    for rule in rules:
        rows = filters.apply_rule(rows, rule)
    used = checks.prepare(rows, law)
    found = fit(rows, law, objective, **settings)
    future = backtest.leave_future_out(rows, law, objective)
    outcomes = tuple(each for made in forecasts for each in outcome(made, every, used.row_indices.tolist()))
    return Report(every, rows, used, found, future, outcomes)


def outcome(made: Forecast, table: Table, fitted: Sequence[int] = ()) -> list[Outcome]:
    """What became of a forecast: an outcome for every finished run at its inputs, or one that says there is none.

    `fitted` are the numbers of the rows that the report's law was fitted to.
    """
    if any(name not in table for name in (made.target, *made.at)):
        return [Outcome(made, None, "open: the table lacks a column of the forecast")]
    numbered = dataclasses.replace(table, source_rows=np.arange(len(table)))
    finished = checks.keep_last_rows(optima.select_finished(numbered, made.target))
    near = [np.abs(finished[name] / value - 1) <= forecast.SAME for name, value in made.at.items()]
    runs = np.flatnonzero(np.all(near, axis=0))
    if not len(runs):
        return [Outcome(made, None, "open: no finished run at these inputs in the table")]
    return [
        Outcome(
            made, float(finished[made.target][i]), verdict(made, finished, i), int(finished.row_indices[i]) in fitted
        )
        for i in runs
    ]


def verdict(made: Forecast, table: Table, i: int) -> str:
    """The settlement of a forecast by row i, or why it settles nothing."""
    started = str(table["started"][i]) if "started" in table else ""
    if not started:
        return "not settled: the table does not say when the run started"
    try:
        return str(forecast.settle(made, float(table[made.target][i]), started))
    except ValueError as error:
        return f"not settled: {error}"

"""Builds a report on a table of runs and a law fitted to it: the data behind the page and its figures.

result = report.build(runs, laws.CHINCHILLA, ("flops_6nd>1e20",), [forecast.read("forecast.json")])
page.write(result, "report.html", png=True)
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
class TrackedTable(Table):
    """A table that records in `drop_rules` which rule dropped which row, by the row's index in the source table."""

    drop_rules: dict[int, str] = dataclasses.field(default_factory=dict)

    def drop(self, rule: str, mask: np.ndarray, why: str) -> "TrackedTable":
        """Drops rows and records the rule."""
        self.drop_rules.update(dict.fromkeys(self.row_indices[np.asarray(mask, bool)].tolist(), rule))
        return super().drop(rule, mask, why)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A registered forecast and a run at its inputs; `actual` is None if there is no such run yet.

    `fitted` tells whether the report's own law was fitted to the run, in which case the law is no test of the forecast.
    """

    forecast: Forecast
    actual: float | None
    verdict: str
    fitted: bool = False

    @property
    def compared(self) -> bool:
        """Whether the forecast could be compared with a run."""
        return self.actual is not None and not self.verdict.startswith("not compared")


@dataclasses.dataclass(frozen=True)
class Report:
    """The source table, the rows that the rules left (`rows`), and those the law was fitted to (`used`)."""

    source: Table
    rows: TrackedTable
    used: TrackedTable
    fit: Fit
    backtest: Backtest
    outcomes: tuple[Outcome, ...]


def build(
    table: Table,
    law: Law,
    rules: Sequence[str] = (),
    forecasts: Sequence[Forecast] = (),
    objective: Objective = HUBER,
    starts: int | None = None,
    bootstraps: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Report:
    """Applies `rules` (see filters.apply_rule), fits `law` (see fit.fit), and looks for the runs of `forecasts`.

    Raises:
      ValueError: a rule has no known form, or the remaining rows cannot be fitted.
    """
    source = checks.derive_columns(table)
    rows = TrackedTable(source.columns, source.steps, np.arange(len(source)))
    for rule in rules:
        rows = filters.apply_rule(rows, rule)
    used = checks.prepare(rows, law)
    result = fit(rows, law, objective, starts, bootstraps, seed, level)
    future = backtest.leave_future_out(rows, law, objective)
    outcomes = tuple(each for one in forecasts for each in find_outcomes(one, source, used.row_indices.tolist()))
    return Report(source, rows, used, result, future, outcomes)


def find_outcomes(registered: Forecast, table: Table, fitted_rows: Sequence[int] = ()) -> list[Outcome]:
    """Returns an outcome for every finished run at a forecast's inputs, or one open outcome if there is no such run.

    `fitted_rows` are the indices of the rows that the report's law was fitted to.
    """
    if any(name not in table for name in (registered.target, *registered.at)):
        return [Outcome(registered, None, "open: the table lacks a column of the forecast")]
    indexed = dataclasses.replace(table, source_rows=np.arange(len(table)))
    finished = checks.keep_last_rows(optima.select_finished(indexed, registered.target))
    near = [np.abs(finished[name] / value - 1) <= forecast.INPUT_TOLERANCE for name, value in registered.at.items()]
    runs = np.flatnonzero(np.all(near, axis=0)).tolist()
    if not runs:
        return [Outcome(registered, None, "open: no finished run at these inputs in the table")]
    return [
        Outcome(
            registered,
            float(finished[registered.target][i]),
            describe_verification(registered, finished, i),
            int(finished.row_indices[i]) in fitted_rows,
        )
        for i in runs
    ]


def describe_verification(registered: Forecast, table: Table, i: int) -> str:
    """Compares a forecast with row i and returns the result as text, or the reason why it cannot be compared."""
    started = str(table["started"][i]) if "started" in table else ""
    if not started:
        return "not compared: the table does not say when the run started"
    try:
        return str(forecast.verify(registered, float(table[registered.target][i]), started))
    except ValueError as error:
        return f"not compared: {error}"

"""Scores a registered forecast: its error, and whether the result is inside its interval.

`settle forecast.json --actual=1.93 --started=2026-01-31T12:00:00Z`, or the run's row: `settle forecast.json --table=runs.csv
--run_id=ab12`. An edited forecast, and one made after the run started, are refused.
"""

import argparse
from collections.abc import Sequence

import numpy as np

from t5x_like.cli.gin.runtime import ConfigError


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="t5x_like settle", description=__doc__)
    parser.add_argument("forecast", metavar="FORECAST.json", help="of t5x_like register")
    parser.add_argument("--actual", type=float, help="the run's result")
    parser.add_argument("--started", help="when the run started, in ISO 8601 (UTC unless it names a zone)")
    parser.add_argument("--table", help="table with the run's row (columns started, and the target)")
    parser.add_argument("--run_id", help="of the run in --table")
    args = parser.parse_args(argv)
    from t5x_like.scaling.planning import forecast

    made = forecast.read(args.forecast)
    actual, started = result(args, made)
    print(forecast.settle(made, actual, started))
    return 0


def result(args: argparse.Namespace, made) -> tuple[float, str]:
    """(what the run came to, when it started), from the flags or the table."""
    from t5x_like.scaling.laws import table
    from t5x_like.scaling.planning import forecast

    if args.table is None:
        if args.actual is None or args.started is None or args.run_id:
            raise ConfigError("give --actual and --started, or --table and --run_id")
        return args.actual, args.started
    if args.run_id is None or args.actual is not None or args.started is not None:
        raise ConfigError(f"--table={args.table} goes with --run_id alone; the result and the start are in its row")
    rows = table.read(args.table)
    found = np.flatnonzero(rows["run_id"] == args.run_id)
    if len(found) != 1:
        raise ConfigError(f"--run_id={args.run_id} is {len(found)} rows of {args.table}; name a run that has one")
    row = rows.rows()[found[0]]
    actual, started, status = float(row[made.target]), str(row["started"]), row.get("status", "")
    if not np.isfinite(actual) or not started or status not in ("", "finished"):
        raise ConfigError(
            f"run {args.run_id} has {made.target}={actual}, started={started!r} and status={status!r}; let it finish first"
        )
    for name, value in made.at.items():
        if name in row and not abs(row[name] / value - 1) <= forecast.SAME:
            raise ConfigError(
                f"run {args.run_id} has {name}={row[name]:g}, the forecast is for {value:g}; name the run that was forecast"
            )
    return actual, started

"""Compares a registered forecast with its run: the error, and whether the result is inside its interval.

`verify forecast.json --actual=1.93 --started=2026-01-31T12:00:00Z`, or the run's row: `verify forecast.json --table=runs.csv
--run_id=ab12`. An edited forecast, or one made after the run started, is rejected.
"""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from t5x_like.cli.flags import Parser, number
from t5x_like.cli.gin.runtime import ConfigError

if TYPE_CHECKING:
    from t5x_like.scaling.planning.forecast import Forecast


def main(argv: Sequence[str]) -> int:
    """Runs the command with these arguments; returns the exit code."""
    parser = Parser(prog="t5x_like verify", description=__doc__)
    parser.add_argument("forecast", metavar="FORECAST.json", help="file written by t5x_like register")
    parser.add_argument("--actual", type=number, help="the run's result")
    parser.add_argument("--started", help="when the run started, in ISO 8601 (UTC without a zone)")
    parser.add_argument("--table", help="table with the run's row (columns started, and the target)")
    parser.add_argument("--run_id", help="the run's id in --table")
    args = parser.parse_args(argv)
    from t5x_like.scaling.planning import forecast

    registered = forecast.read(args.forecast)
    actual, started = read_result(args, registered)
    print(forecast.verify(registered, actual, started))
    return 0


def read_result(args: argparse.Namespace, registered: "Forecast") -> tuple[float, str]:
    """Returns (the run's result, when it started), from the flags or the table.

    Raises:
      ConfigError: the flags contradict each other, or the table has no finished run like the one that was forecast.
    """
    from t5x_like.scaling.laws import table
    from t5x_like.scaling.planning import forecast

    if args.table is None:
        if args.actual is None or args.started is None or args.run_id:
            raise ConfigError("give --actual and --started, or --table and --run_id")
        return args.actual, args.started
    if args.run_id is None or args.actual is not None or args.started is not None:
        raise ConfigError(f"--table={args.table} needs --run_id alone; the result and the start are in its row")
    runs = table.read(args.table)
    matches = np.flatnonzero(runs["run_id"] == args.run_id)
    if len(matches) != 1:
        raise ConfigError(
            f"--run_id={args.run_id} matches {len(matches)} rows of {args.table}; name a run that has one"
        )
    row = runs.rows()[matches[0]]
    actual, started, status = float(row[registered.target]), str(row["started"]), row.get("status", "")
    if not np.isfinite(actual) or not started or status not in ("", "finished"):
        raise ConfigError(
            f"run {args.run_id} has {registered.target}={actual}, started={started!r} and status={status!r}; let it finish first"
        )
    for name, value in registered.at.items():
        if name in row and not abs(row[name] / value - 1) <= forecast.INPUT_TOLERANCE:
            raise ConfigError(
                f"run {args.run_id} has {name}={row[name]:g}, the forecast is for {value:g}; name the run that was forecast"
            )
    return actual, started

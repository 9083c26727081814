"""Predicts single new runs from a fit or a table, with intervals: `predict fit.json --at n_params=7e10,tokens=1.4e12`."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from t5x_like.cli.flags import Parser
from t5x_like.cli.forecasting import flags
from t5x_like.cli.gin.runtime import ConfigError

if TYPE_CHECKING:
    from t5x_like.scaling.laws.fit import Fit

TABLE_HELP = "fit.json of t5x_like fit, or a table to fit first"


def main(argv: Sequence[str]) -> int:
    """Runs the command with these arguments; returns the exit code."""
    parser = Parser(prog="t5x_like predict", description=__doc__)
    flags.add_table(parser, TABLE_HELP)
    flags.add_fitting(parser)
    parser.add_argument("--at", required=True, action="append", metavar="COLUMN=NUMBER,...", help="a run; repeatable")
    parser.add_argument("--json", action="store_true", help="print one JSON object per run")
    args = parser.parse_args(argv)
    runs = [flags.parse_numbers(text, "--at") for text in args.at]
    fit = flags.load_fit(args)
    for at in (resolve_inputs(fit, run) for run in runs):
        prediction = fit.predict({name: [value] for name, value in at.items()})
        value, low, high = (float(x[0]) for x in (prediction.value, prediction.low, prediction.high))
        facts = {**at, fit.law.target: value, "low": low, "high": high, "level": prediction.level}
        print(json.dumps(facts) if args.json else format_prediction(fit, facts))
    return 0


def resolve_inputs(fit: "Fit", at: Mapping[str, float]) -> dict[str, float]:
    """Returns the law's inputs, with tokens, n_params and FLOPs derived from each other.

    Raises:
      ConfigError: an input is absent or not positive.
    """
    from t5x_like.scaling.laws import checks, table

    for name, value in at.items():
        if not (math.isfinite(value) and value > 0):
            raise ConfigError(f"--at {name}={value:g}: a run has a positive number here; correct it")
    row = checks.derive_columns(table.from_rows([at]))
    checks.reject_mixed_flops(row)
    if absent := [name for name in fit.law.inputs if name not in row]:
        raise ConfigError(f"--at names no {absent[0]}; {fit.law.name} needs {', '.join(fit.law.inputs)}")
    return {name: float(row[name][0]) for name in fit.law.inputs}


def format_prediction(fit: "Fit", facts: Mapping[str, Any]) -> str:
    """Formats a prediction as text, with its distance beyond the fitted range."""
    law = fit.law
    at = ", ".join(f"{name} {facts[name]:.4g}" for name in law.inputs)
    far = [(name, facts[name] / fit.ranges[name][1]) for name in law.inputs if facts[name] > fit.ranges[name][1]]
    beyond = "; ".join(f"{times:.3g}x the largest {name} fitted" for name, times in far)
    text = f"{law.target} {facts[law.target]:.5g}, {100 * facts['level']:g}% {facts['low']:.5g} to {facts['high']:.5g} at {at}"
    return text + (f" ({beyond})" if beyond else "")

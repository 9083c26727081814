"""Predicts single new runs from a fit or a table: `predict fit.json --at n_params=7e10,tokens=1.4e12`, with intervals."""

import argparse
import json
import math
from collections.abc import Sequence

from t5x_like.cli.forecasting import flags
from t5x_like.cli.gin.runtime import ConfigError

WHAT = "fit.json of t5x_like fit, or a table to fit first"


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="t5x_like predict", description=__doc__)
    flags.add_table(parser, WHAT)
    flags.add_fitting(parser)
    parser.add_argument(
        "--at", required=True, action="append", metavar="COLUMN=NUMBER,...", help="a run; give it again for more"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object a run")
    args = parser.parse_args(argv)
    runs = [flags.numbers(text, "--at") for text in args.at]
    found = flags.fitted(args)
    for at in (inputs(found, run) for run in runs):
        predicted = found.predict({name: [value] for name, value in at.items()})
        value, low, high = (float(x[0]) for x in (predicted.value, predicted.low, predicted.high))
        facts = {**at, found.law.target: value, "low": low, "high": high, "level": predicted.level}
        print(json.dumps(facts) if args.json else line(found, facts))
    return 0


def inputs(found, at: dict[str, float]) -> dict[str, float]:
    """The law's inputs, with tokens, n_params and FLOPs worked out from each other."""
    from t5x_like.scaling.laws import checks, table

    for name, value in at.items():
        if not (math.isfinite(value) and value > 0):
            raise ConfigError(f"--at {name}={value:g}: a run has a positive number there; correct it")
    row = checks.derive_columns(table.from_rows([at]))
    checks.reject_mixed_flops(row)
    if missing := [name for name in found.law.inputs if name not in row]:
        raise ConfigError(f"--at names no {missing[0]}; {found.law.name} needs {', '.join(found.law.inputs)}")
    return {name: float(row[name][0]) for name in found.law.inputs}


def line(found, facts: dict) -> str:
    """A prediction as text, with how far it reaches beyond the table."""
    law = found.law
    at = ", ".join(f"{name} {facts[name]:.4g}" for name in law.inputs)
    far = [(name, facts[name] / found.ranges[name][1]) for name in law.inputs if facts[name] > found.ranges[name][1]]
    beyond = "; ".join(f"{times:.3g}x the largest {name} fitted" for name, times in far)
    text = f"{law.target} {facts[law.target]:.5g}, {100 * facts['level']:g}% {facts['low']:.5g} to {facts['high']:.5g} at {at}"
    return text + (f" ({beyond})" if beyond else "")

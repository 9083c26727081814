"""Writes a dated, hashed forecast of a run before it starts; `t5x_like settle` scores it afterwards.

`register fit.json --at n_params=7e10,tokens=1.4e12 --out=forecast.json`. Make the printed hash known before the run: it is
what shows others that the forecast came first.
"""

import argparse
from collections.abc import Sequence

from t5x_like.cli.forecasting import flags, predict


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="t5x_like register", description=__doc__)
    flags.add_table(parser, predict.WHAT)
    flags.add_fitting(parser)
    parser.add_argument("--at", required=True, metavar="COLUMN=NUMBER,...", help="the run to come")
    parser.add_argument("--out", required=True, metavar="FORECAST.json", help="a new file")
    parser.add_argument("--note", default="", help="kept with the forecast")
    args = parser.parse_args(argv)
    from t5x_like.scaling.planning import forecast

    at = flags.numbers(args.at, "--at")
    found = flags.fitted(args)
    made = forecast.forecast(found, predict.inputs(found, at), args.note)
    sha256 = forecast.register(made, args.out)
    print(f"{made.target} {made.value:.5g}, {100 * made.level:g}% {made.low:.5g} to {made.high:.5g}")
    print(f"{args.out}  {made.created}  sha256 {sha256}")
    return 0

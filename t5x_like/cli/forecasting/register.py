"""Writes a dated, hashed forecast of a run before it starts; `t5x_like verify` compares it with the run afterwards.

`register fit.json --at n_params=7e10,tokens=1.4e12 --out=forecast.json`. Publish the printed hash before the run: it proves
to others that the forecast came first.
"""

from collections.abc import Sequence

from t5x_like.cli.flags import Parser
from t5x_like.cli.forecasting import flags, predict


def main(argv: Sequence[str]) -> int:
    """Runs the command with these arguments; returns the exit code."""
    parser = Parser(prog="t5x_like register", description=__doc__)
    flags.add_table(parser, predict.TABLE_HELP)
    flags.add_fitting(parser)
    parser.add_argument("--at", required=True, metavar="COLUMN=NUMBER,...", help="inputs of the future run")
    parser.add_argument("--out", required=True, metavar="FORECAST.json", help="a new file")
    parser.add_argument("--note", default="", help="text stored with the forecast")
    args = parser.parse_args(argv)
    from t5x_like.scaling.planning import forecast

    at = flags.parse_numbers(args.at, "--at")
    fit = flags.load_fit(args)
    new = forecast.make_forecast(fit, predict.resolve_inputs(fit, at), args.note)
    sha256 = forecast.register(new, args.out)
    print(f"{new.target} {new.value:.5g}, {100 * new.level:g}% {new.low:.5g} to {new.high:.5g}")
    print(f"{args.out}  {new.created}  sha256 {sha256}")
    return 0

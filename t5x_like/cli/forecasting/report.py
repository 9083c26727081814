"""Writes a report on a table of runs and a law fitted to it: one HTML page with its figures embedded.

`report runs.csv --law=chinchilla --out=report.html --forecast=forecast.json` shows IsoFLOP curves, contours, the envelope, the
profile of E, residuals, forecasts and results, and every run with the rule that dropped it. The page needs no network.
"""

from collections.abc import Sequence

from t5x_like.cli.flags import Parser
from t5x_like.cli.forecasting import flags
from t5x_like.cli.gin.runtime import ConfigError


def main(argv: Sequence[str]) -> int:
    """Runs the command with these arguments; returns the exit code."""
    parser = Parser(prog="t5x_like report", description=__doc__)
    flags.add_table(parser)
    flags.add_fitting(parser)
    parser.add_argument("--out", metavar="REPORT.html", default="report.html", help="default: %(default)s")
    parser.add_argument("--png", action="store_true", help="write the figures as PNG files too")
    parser.add_argument(
        "--forecast", action="append", default=[], metavar="FORECAST.json", help="file of t5x_like register; repeatable"
    )
    args = parser.parse_args(argv)
    if not args.out.endswith(".html"):
        raise ConfigError(f"--out={args.out} must end in .html; the page is HTML")
    from t5x_like.scaling.planning import forecast
    from t5x_like.scaling.reports import page, report

    rules, args.drop = args.drop, []
    result = report.build(
        flags.load_table(args),
        flags.select_law(args),
        rules,
        [forecast.read(path) for path in args.forecast],
        **flags.fit_settings(args),
    )
    for path in page.write(result, args.out, args.png):
        print(f"written     {path}")
    return 0

"""Fits scaling laws to a table of runs, with intervals, a certificate, identifiability, and the error on larger runs.

Laws of single runs: chinchilla, chinchilla_tied, kaplan_n, kaplan_d, kaplan_c, kaplan_nd, loss_vs_compute, data_constrained,
broken, sigmoid (accuracy by loss). Laws of optima: isoflop, envelope (training curves), lr, batch. `shape` tests whether a score
(--target) rises, falls or turns with --inputs (default: n_params). --compare ranks laws by their error on larger runs.
"""

import argparse
import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from t5x_like.cli.flags import Parser
from t5x_like.cli.forecasting import flags
from t5x_like.cli.gin.runtime import ConfigError

if TYPE_CHECKING:
    from t5x_like.scaling.laws.fit import Estimate, Fit
    from t5x_like.scaling.laws.optima import Analysis

EXAMPLES = """examples:
  t5x_like fit runs.csv --out=fit.json
  t5x_like fit svg_extracted_data.csv --columns n_params="Model Size",flops_6nd="Training FLOP" --drop highest_loss=5
  t5x_like fit runs.csv --compare chinchilla chinchilla_tied kaplan_nd
  t5x_like fit runs.csv --law=isoflop
  t5x_like fit runs.csv --law=sigmoid --target=accuracy_arc --inputs=loss/code
"""
MIN_BASIN_SHARE = 0.02  # a smaller share of starts in the best basin is no certificate


def main(argv: Sequence[str]) -> int:
    """Runs the command with these arguments; returns the exit code."""
    parser = Parser(
        prog="t5x_like fit", description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_table(parser)
    flags.add_fitting(parser)
    parser.add_argument("--compare", nargs="*", metavar="LAW", help="rank these laws (none: all that fit the columns)")
    parser.add_argument("--out", metavar="FIT.json", help="write the fit, for predict, plan and register")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(argv)
    if args.out and not args.out.endswith(".json"):
        raise ConfigError(f"--out={args.out} must end in .json, which tells fits from tables in predict and plan")
    if args.compare is not None:
        compare_laws(args)
    elif args.law == "shape":
        if args.out:
            raise ConfigError(f"--out={args.out}: --law=shape fits no law to write; drop --out, or use --json")
        classify_shape(args)
    elif args.law in analyses_by_name():
        fit_optima(args, analyses_by_name()[args.law])
    else:
        fit_runs(args)
    return 0


def analyses_by_name() -> "dict[str, Analysis]":
    """Returns the analyses of optima by name."""
    from t5x_like.scaling.laws import optima

    return {each.name: each for each in optima.ALL_ANALYSES}


def fit_runs(args: argparse.Namespace) -> None:
    """Fits a law to single runs and prints the fit with its backtest."""
    from t5x_like.scaling.laws import backtest, fit

    runs, law = flags.load_table(args), flags.select_law(args)
    result = fit.fit(runs, law, **flags.fit_settings(args))
    future = backtest.leave_future_out(runs, law, flags.select_objective(args), args.seed)
    text = format_fit(result) + f"\nfuture      {future}"
    print_fits(args, [result], text, {"leave_future_out": future.error})


def fit_optima(args: argparse.Namespace, analysis: "Analysis") -> None:
    """Fits power laws to the optima of a table and prints both."""
    from t5x_like.scaling.laws import fit

    reduced = analysis.reduce(flags.load_table(args), args.target or "loss")
    fits = [fit.fit(reduced, law, **flags.fit_settings(args)) for law in analysis.laws(reduced)]
    names = list(reduced.columns)
    rows = ["  ".join(f"{name:>12}" for name in names)]
    rows += ["  ".join(f"{reduced[name][i]:12.5g}" for name in names) for i in range(len(reduced))]
    text = "\n".join([f"{analysis.name}: {analysis.summary}", *rows, "", "\n\n".join(map(format_fit, fits))])
    print_fits(args, fits, text, {"optima": reduced.rows()})


def print_fits(args: argparse.Namespace, fits: "Sequence[Fit]", text: str, more: Mapping[str, Any]) -> None:
    """Prints fits as text or JSON, and writes the first to --out."""
    if args.out:
        fits[0].write(args.out)
    facts = {each.law.name: fit_facts(each) for each in fits} | dict(more)
    print(json.dumps(facts, indent=2) if args.json else text)
    if args.out and not args.json:
        print(f"written     {args.out}" + (f" ({fits[0].law.name})" if len(fits) > 1 else ""))


def compare_laws(args: argparse.Namespace) -> None:
    """Ranks laws by their backtests on the rows that all of them can use."""
    from t5x_like.scaling.laws import backtest, laws

    runs = flags.load_table(args)
    candidates = [flags.select_law(args, name) for name in args.compare or ()]
    target = args.target or flags.select_law(args).target
    applicable = [law for law in laws.ALL_LAWS if law.target == target and all(name in runs for name in law.inputs)]
    candidates = candidates or [law for law in applicable if len(runs) >= law.min_rows]
    if not candidates or len({law.target for law in candidates}) > 1:
        raise ConfigError(
            f"--compare needs laws of one target, not {', '.join(law.name for law in candidates) or 'none'}: name those of "
            f"{target}, or add the columns and rows that they need to the table"
        )
    ranking = backtest.compare(runs, candidates, flags.select_objective(args), args.seed)
    if args.json:
        print(json.dumps({each.law.name: finite_or_none(each.error) for each in ranking}, indent=2))
        return
    print("by the error on runs larger than those fitted:")
    for each in ranking:
        print(f"  {each.law.name:<18}{each}")


def classify_shape(args: argparse.Namespace) -> None:
    """Prints how a score changes with scale, in the rows that a law could be fitted to."""
    from t5x_like.scaling.laws import checks, laws, trend

    (by, *more), target = flags.parse_inputs(args) or ("n_params",), args.target or "accuracy"
    if more:
        raise ConfigError(f"--inputs={args.inputs} are {1 + len(more)}, shape is over one column; name one of them")
    law = dataclasses.replace(laws.power_law(target, by), log_target=False)
    rows = checks.select_usable(flags.load_table(args), law)
    result = trend.classify_trend(rows[by], rows[target], args.level)
    shape = result.shape.value
    if any(
        name.startswith(("loss", "bits_per_byte")) for name in (target, by)
    ):  # a falling loss is not inverse scaling
        shape = shape.removesuffix(" (inverse scaling)")
    if args.json:
        facts = {"target": target, "over": by, "rows": len(rows), "shape": shape, "tau": result.tau, "p": result.p}
        facts |= {"turn": result.turn, "sides_p": result.sides, "steps": [str(step) for step in rows.steps]}
        print(json.dumps(facts, indent=2))
        return
    for step in rows.steps:
        if step.dropped:
            print(f"dropped     {step}")
    print(f"{target} over {by}, {len(rows)} rows: {shape}")
    print(f"Kendall's tau {result.tau:+.3f}, p {result.p:.2g}")
    if result.turn is not None and result.sides is not None:
        print(f"turns near {by} {result.turn:.4g}: p {result.sides[0]:.2g} before, {result.sides[1]:.2g} after")


def format_fit(fit: "Fit") -> str:
    """Formats a fit as text."""
    from t5x_like.scaling.planning import plan

    certificate, law = fit.certificate, fit.law
    lines = [f"{law.name}: {law.equation}" + (f" ({law.source})" if law.source else "")]
    lines += [f"rows        {fit.rows} used", *(f"            {step}" for step in fit.steps)]
    scale = f"log {law.target}" if law.log_target else law.target
    lines += [f"objective   {certificate.objective:.8g} ({fit.objective.name}, on {scale})"]
    lines += [f"certificate {certificate.share:.1%} of {certificate.starts} starts end in the best basin"]
    if certificate.share < MIN_BASIN_SHARE and certificate.starts > 1:
        lines[-1] += ": too few for confidence; more or other starts may find a better one"
    percent = f"{100 * fit.level:g}%"
    lines += [
        f"{'':12}{'value':>12}{'std. error':>12}   {percent} interval ({len(fit.draws)} bootstraps, {fit.bootstrap})"
    ]
    lines += [format_parameter(name, each) for name, each in fit.parameters.items()]
    if (a := plan.size_exponent(fit)) is not None and all(fit.parameters[x].identified for x in law.exponents):
        lines += [f"N_opt ~ C^a {a.value:12.4g}{'':15}{a.low:.4g} to {a.high:.4g}"]
    unit = "of the target" if law.log_target else "in the target's unit"
    scatter = f"{fit.noise:.3%}" if law.log_target else f"{fit.noise:.4g}"
    lines += [f"scatter     {scatter} {unit}, per run"]
    lines += [f"condition   {fit.identification.condition:.3g} of the curvature"]
    return "\n".join(lines)


def format_parameter(name: str, estimate: "Estimate") -> str:
    """Formats a parameter as a line of text."""
    if not estimate.identified:
        return f"{name:<12}not identified: {estimate.why}"
    interval = f"{estimate.low:.5g} to {estimate.high:.5g}"
    return f"{name:<12}{estimate.value:12.5g}{estimate.standard_error:12.3g}   {interval}"


def fit_facts(fit: "Fit") -> dict[str, Any]:
    """Returns a fit as plain numbers; parameters that are not identified have none."""
    keys = ("value", "standard_error", "low", "high")
    parameters = {
        name: {key: finite_or_none(getattr(each, key)) for key in keys}
        if each.identified
        else {"not_identified": each.why}
        for name, each in fit.parameters.items()
    }
    return {
        "law": fit.law.equation,
        "rows": fit.rows,
        "steps": [str(step) for step in fit.steps],
        "objective": fit.certificate.objective,
        "starts": fit.certificate.starts,
        "share_in_best_basin": fit.certificate.share,
        "parameters": parameters,
        "condition": finite_or_none(fit.identification.condition),
        "scatter": fit.noise,
    }


def finite_or_none(value: float) -> float | None:
    """Returns None for infinity and NaN, which JSON lacks."""
    return value if math.isfinite(value) else None

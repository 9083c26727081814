"""Fits scaling laws to a table of runs: intervals, a certificate, what is not identified, and how it predicts larger runs.

Laws of single runs: chinchilla, chinchilla_tied, kaplan_n, kaplan_d, kaplan_c, kaplan_nd, loss_vs_compute, data_constrained,
broken, sigmoid (accuracy by loss). Laws of optima: isoflop, envelope (training curves), lr, batch. `shape` says whether a score
(--target) rises, falls or turns with --inputs (default: n_params). --compare ranks laws by their error on larger runs.
"""

import argparse
import dataclasses
import json
import math
from collections.abc import Sequence

from t5x_like.cli.forecasting import flags
from t5x_like.cli.gin.runtime import ConfigError

EXAMPLES = """examples:
  t5x_like fit runs.csv --out=fit.json
  t5x_like fit svg_extracted_data.csv --columns n_params="Model Size",flops_6nd="Training FLOP" --drop highest_loss=5
  t5x_like fit runs.csv --compare chinchilla chinchilla_tied kaplan_nd
  t5x_like fit runs.csv --law=isoflop
  t5x_like fit runs.csv --law=sigmoid --target=accuracy_arc --inputs=loss/code
"""
FEW = 0.02  # a smaller share of starts in the best basin certifies nothing


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="t5x_like fit", description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_table(parser)
    flags.add_fitting(parser)
    parser.add_argument("--compare", nargs="*", metavar="LAW", help="rank these laws (none: all that fit the columns)")
    parser.add_argument("--out", metavar="FIT.json", help="write the fit, for predict, plan and register")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(argv)
    if args.out and not args.out.endswith(".json"):
        raise ConfigError(f"--out={args.out} must end in .json, as predict and plan tell fits from tables by it")
    if args.compare is not None:
        compare(args)
    elif args.law == "shape":
        if args.out:
            raise ConfigError(
                f"--out={args.out}: --law=shape fits no law that could be written; leave --out out, or take --json"
            )
        shape(args)
    elif args.law in analyses():
        of_optima(args, analyses()[args.law])
    else:
        of_runs(args)
    return 0


def analyses() -> dict:
    from t5x_like.scaling.laws import optima

    return {each.name: each for each in optima.ALL_ANALYSES}


def of_runs(args: argparse.Namespace) -> None:
    """One law, and its score."""
    from t5x_like.scaling.laws import backtest, fit

    rows, law = flags.table(args), flags.law(args)
    found = fit.fit(rows, law, **flags.settings(args))
    future = backtest.leave_future_out(rows, law, flags.objective(args), args.seed)
    show(args, [found], page(found) + f"\nfuture      {future}", {"leave_future_out": future.error})


def of_optima(args: argparse.Namespace, analysis) -> None:
    """Power laws of the minima of a table."""
    from t5x_like.scaling.laws import fit

    reduced = analysis.reduce(flags.table(args), args.target or "loss")
    found = [fit.fit(reduced, law, **flags.settings(args)) for law in analysis.laws(reduced)]
    names = list(reduced.columns)
    rows = ["  ".join(f"{name:>12}" for name in names)]
    rows += ["  ".join(f"{reduced[name][i]:12.5g}" for name in names) for i in range(len(reduced))]
    text = "\n".join([f"{analysis.name}: {analysis.summary}", *rows, "", "\n\n".join(map(page, found))])
    show(args, found, text, {"minima": reduced.rows()})


def show(args: argparse.Namespace, found: list, text: str, more: dict) -> None:
    """Prints fits, and writes the first."""
    if args.out:
        found[0].write(args.out)
    facts = {each.law.name: summary(each) for each in found} | more
    print(json.dumps(facts, indent=2) if args.json else text)
    if args.out and not args.json:
        print(f"written     {args.out}" + (f" ({found[0].law.name})" if len(found) > 1 else ""))


def compare(args: argparse.Namespace) -> None:
    """Ranks laws on the rows all of them can use."""
    from t5x_like.scaling.laws import backtest, laws

    rows = flags.table(args)
    forms = [flags.law(args, name) for name in args.compare or ()]
    target = args.target or flags.law(args).target
    known = [law for law in laws.ALL_LAWS if law.target == target and all(name in rows for name in law.inputs)]
    forms = forms or [law for law in known if len(rows) >= law.min_rows]
    if not forms or len({law.target for law in forms}) > 1:
        raise ConfigError(
            f"--compare takes laws of one target, not {', '.join(law.name for law in forms) or 'none'}: name those of "
            f"{target}, or give the table the columns and rows that they take"
        )
    ranked = backtest.compare(rows, forms, flags.objective(args), args.seed)
    if args.json:
        print(json.dumps({each.law.name: number(each.error) for each in ranked}, indent=2))
        return
    print("by the error on runs larger than those fitted:")
    for each in ranked:
        print(f"  {each.law.name:<18}{each}")


def shape(args: argparse.Namespace) -> None:
    """Prints which way a score goes with scale, in the rows that a law could be fitted to."""
    from t5x_like.scaling.laws import checks, laws, trend

    (by, *more), target = flags.inputs(args) or ("n_params",), args.target or "accuracy"
    if more:
        raise ConfigError(f"--inputs={args.inputs} are {1 + len(more)}, shape is over one column; name one of them")
    law = dataclasses.replace(laws.power_law(target, by), log_target=False)
    rows = checks.select_usable(flags.table(args), law)
    found = trend.classify_trend(rows[by], rows[target], args.level)
    way = found.shape.value
    if any(name.startswith(("loss", "bits_per_byte")) for name in (target, by)):  # a loss is to fall, a score with it
        way = way.removesuffix(" (inverse scaling)")
    if args.json:
        facts = {"target": target, "over": by, "rows": len(rows), "shape": way, "tau": found.tau, "p": found.p}
        facts |= {"turn": found.turn, "sides_p": found.sides, "steps": [str(step) for step in rows.steps]}
        print(json.dumps(facts, indent=2))
        return
    for step in rows.steps:
        if step.dropped:
            print(f"left out    {step}")
    print(f"{target} over {by}, {len(rows)} rows: {way}")
    print(f"Kendall's tau {found.tau:+.3f}, p {found.p:.2g}")
    if found.turn is not None:
        print(f"turns near {by} {found.turn:.4g}: p {found.sides[0]:.2g} before, {found.sides[1]:.2g} after")


def page(found) -> str:
    """A fit as text."""
    from t5x_like.scaling.planning import plan

    sure, law = found.certificate, found.law
    lines = [f"{law.name}: {law.equation}" + (f" ({law.source})" if law.source else "")]
    lines += [f"rows        {found.rows} used", *(f"            {step}" for step in found.steps)]
    on = f"log {law.target}" if law.log_target else law.target
    lines += [f"objective   {sure.objective:.8g} ({found.objective.name}, on {on})"]
    lines += [f"certificate {sure.share:.1%} of {sure.starts} starts end in the best basin"]
    if sure.share < FEW and sure.starts > 1:
        lines[-1] += ": too few to be sure of it; more or other starts may find a better one"
    percent = f"{100 * found.level:g}%"
    lines += [
        f"{'':12}{'value':>12}{'std. error':>12}   {percent} interval ({len(found.draws)} bootstraps, {found.bootstrap})"
    ]
    lines += [line(name, each) for name, each in found.parameters.items()]
    if (a := plan.exponent(found)) is not None and all(found.parameters[x].identified for x in law.exponents):
        lines += [f"N_opt ~ C^a {a.value:12.4g}{'':15}{a.low:.4g} to {a.high:.4g}"]
    unit = "of the target" if law.log_target else "in the target's unit"
    size = f"{found.noise:.3%}" if law.log_target else f"{found.noise:.4g}"
    lines += [f"scatter     {size} {unit}, a run", f"condition   {found.identification.condition:.3g} of the curvature"]
    return "\n".join(lines)


def line(name: str, each) -> str:
    if not each.identified:
        return f"{name:<12}not identified: {each.why}"
    return f"{name:<12}{each.value:12.5g}{each.standard_error:12.3g}   {each.low:.5g} to {each.high:.5g}"


def summary(found) -> dict:
    """A fit as plain numbers; what is not identified has none."""
    shown = ("value", "standard_error", "low", "high")
    parameters = {
        name: {key: number(getattr(each, key)) for key in shown} if each.identified else {"not_identified": each.why}
        for name, each in found.parameters.items()
    }
    return {
        "law": found.law.equation,
        "rows": found.rows,
        "steps": [str(step) for step in found.steps],
        "objective": found.certificate.objective,
        "starts": found.certificate.starts,
        "share_in_best_basin": found.certificate.share,
        "parameters": parameters,
        "condition": number(found.identification.condition),
        "scatter": found.noise,
    }


def number(value: float) -> float | None:
    """JSON has no infinity."""
    return value if math.isfinite(value) else None

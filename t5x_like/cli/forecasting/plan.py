"""Plans a run: parameters, tokens, shape, learning rate, batch, loss and cost of a budget, from a table of runs or a paper.

`plan runs.csv --flops=1e21`, `plan fit.json --flops=1e21`, `plan --preset=besiroglu --flops=1e21 --unique_tokens=1e10`.
"""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t5x_like.cli.flags import Parser, amount, positive_number
from t5x_like.cli.forecasting import flags, predict
from t5x_like.cli.gin.runtime import ConfigError

if TYPE_CHECKING:
    from t5x_like.scaling.laws.fit import Fit
    from t5x_like.scaling.planning.plan import Plan, Quantity


def main(argv: Sequence[str]) -> int:
    """Runs the command with these arguments; returns the exit code."""
    parser = Parser(prog="t5x_like plan", description=__doc__)
    flags.add_table(parser, f"{predict.TABLE_HELP}; none with --preset", nargs="?")
    flags.add_fitting(parser)
    parser.add_argument(
        "--preset", help="a paper's law: besiroglu, hoffmann, hoffmann_1, hoffmann_2, kaplan, muennighoff"
    )
    parser.add_argument(
        "--flops", type=positive_number, required=True, help="6 N D of training, plus inference with --inference_tokens"
    )
    parser.add_argument(
        "--unique_tokens", type=positive_number, help="distinct tokens available; beyond them the data repeats"
    )
    parser.add_argument(
        "--inference_tokens", type=amount, default=0.0, help="tokens to serve from the same FLOPs, 2 N each"
    )
    parser.add_argument("--max_params", type=positive_number, help="largest N")
    parser.add_argument(
        "--flops_per_second", type=positive_number, help="sustained speed of the machine: gives the hours"
    )
    parser.add_argument(
        "--cost_per_hour", type=positive_number, help="cost of that machine: gives the cost of training"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(argv)
    check_flags(args)
    plan = make_plan(args)
    print(json.dumps(plan_facts(plan, args), indent=2) if args.json else format_plan(plan, args))
    return 0


def check_flags(args: argparse.Namespace) -> None:
    """Raises ConfigError for flags that contradict each other."""
    from t5x_like.scaling.planning import presets

    if (args.table is None) == (args.preset is None):
        raise ConfigError(f"TABLE={args.table} and --preset={args.preset}: give one of them")
    if args.preset and args.preset not in presets.PRESETS:
        raise ConfigError(f"--preset={args.preset} is unknown; use one of {', '.join(presets.PRESETS)}")
    if args.cost_per_hour is not None and args.flops_per_second is None:
        raise ConfigError(f"--cost_per_hour={args.cost_per_hour:g} needs --flops_per_second, to compute the hours")


def make_plan(args: argparse.Namespace) -> "Plan":
    """Returns the plan for the flags."""
    from t5x_like.scaling.planning import plan, presets

    budget = plan.Budget(args.flops, args.unique_tokens, args.inference_tokens, args.max_params)
    if args.preset:
        return plan.from_preset(budget, presets.PRESETS[args.preset])
    fit = flags.load_fit(args)
    lr, batch, notes = (None, None, ()) if Path(args.table).suffix == ".json" else fit_tuning(args)
    result = plan.from_fit(budget, fit, lr, batch)
    return dataclasses.replace(result, sources=(*result.sources, *notes))


def fit_tuning(args: argparse.Namespace) -> "tuple[Fit | None, Fit | None, tuple[str, ...]]":
    """Fits power laws of the best lr and batch if the table tries several; returns (lr, batch, notes)."""
    from t5x_like.scaling.laws import fit, optima

    runs, notes = flags.load_table(args), []
    fits: list[Fit | None] = []
    for analysis, column in ((optima.LR, "lr"), (optima.BATCH, "batch_tokens")):
        fits.append(None)
        if column not in runs:
            continue
        try:
            reduced = analysis.reduce(runs, args.target or "loss")
            fits[-1] = fit.fit(reduced, analysis.laws(reduced)[0], **flags.fit_settings(args))
            notes.append(f"{column}: optima of the table")
        except ValueError as error:
            notes.append(f"{column} is not fitted: {error}")
    lr, batch = fits
    return lr, batch, tuple(notes)


def plan_facts(plan: "Plan", args: argparse.Namespace) -> dict[str, Any]:
    """Returns the plan as plain numbers."""
    facts: dict[str, Any] = {name: dataclasses.asdict(value) for name, value in plan_quantities(plan).items()}
    facts |= {"shape": plan.shape, "training_flops": plan.training_flops, "sources": list(plan.sources)}
    if args.flops_per_second:
        facts["hours"] = plan.hours(args.flops_per_second)
        if args.cost_per_hour:
            facts["cost"] = facts["hours"] * args.cost_per_hour
    return facts


def plan_quantities(plan: "Plan") -> "dict[str, Quantity]":
    """Returns the quantities that the plan has, by name."""
    names = ("n_params", "tokens", "loss", "lr", "batch_tokens")
    return {name: value for name in names if (value := getattr(plan, name)) is not None}


def format_plan(plan: "Plan", args: argparse.Namespace) -> str:
    """Formats the plan as text."""
    lines = [f"{name:<14}{format_interval(value, plan.level)}" for name, value in plan_quantities(plan).items()]
    lines.insert(2, f"{'tokens / N':<14}{plan.tokens.value / plan.n_params.value:.4g}")
    shape = ", ".join(f"{name} {value}" for name, value in plan.shape.items())
    lines.append(f"{'shape':<14}{shape} (width / depth near 100; gated MLP of 8/3 the width)")
    lines.append(f"{'training':<14}{plan.training_flops:.4g} FLOPs")
    if args.inference_tokens:
        lines.append(f"{'inference':<14}{2 * plan.n_params.value * args.inference_tokens:.4g} FLOPs")
    facts = plan_facts(plan, args)
    if "hours" in facts:
        lines.append(f"{'hours':<14}{facts['hours']:.4g}" + (f", cost {facts['cost']:.4g}" if "cost" in facts else ""))
    return "\n".join([*lines, *(f"{'from':<14}{source}" for source in plan.sources)])


def format_interval(value: "Quantity", level: float) -> str:
    """Formats a quantity with its interval, if it has one."""
    if value.low is None:
        return f"{value.value:.4g}"
    return f"{value.value:.4g}   {100 * level:g}% {value.low:.4g} to {value.high:.4g}"

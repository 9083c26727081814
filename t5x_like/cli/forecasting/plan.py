"""Plans a run: parameters, tokens, shape, learning rate, batch, loss and cost of a budget, from one's own table or a paper.

`plan runs.csv --flops=1e21`, `plan fit.json --flops=1e21`, `plan --preset=besiroglu --flops=1e21 --unique_tokens=1e10`.
"""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from t5x_like.cli.forecasting import flags, predict
from t5x_like.cli.gin.runtime import ConfigError


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="t5x_like plan", description=__doc__)
    flags.add_table(parser, f"{predict.WHAT}; none with --preset", nargs="?")
    flags.add_fitting(parser)
    parser.add_argument(
        "--preset", help="a paper's law: besiroglu, hoffmann, hoffmann_1, hoffmann_2, kaplan, muennighoff"
    )
    parser.add_argument(
        "--flops", type=float, required=True, help="6 N D of training, and inference if there are tokens for it"
    )
    parser.add_argument("--unique_tokens", type=float, help="different tokens there are; beyond them the data repeats")
    parser.add_argument(
        "--inference_tokens", type=float, default=0.0, help="to be served from the same FLOPs, 2 N each"
    )
    parser.add_argument("--max_params", type=float, help="largest N")
    parser.add_argument(
        "--flops_per_second", type=float, help="what the machine sustains: says how long training takes"
    )
    parser.add_argument("--cost_per_hour", type=float, help="of that machine: says what training costs")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(argv)
    check(args)
    made = planned(args)
    print(json.dumps(facts(made, args), indent=2) if args.json else page(made, args))
    return 0


def check(args: argparse.Namespace) -> None:
    """Refuses flags that contradict each other."""
    from t5x_like.scaling.planning import presets

    if (args.table is None) == (args.preset is None):
        raise ConfigError(f"TABLE={args.table} and --preset={args.preset}: give one of them")
    if args.preset and args.preset not in presets.PRESETS:
        raise ConfigError(f"--preset={args.preset} is none; take one of {', '.join(presets.PRESETS)}")
    if args.cost_per_hour is not None and args.flops_per_second is None:
        raise ConfigError(f"--cost_per_hour={args.cost_per_hour:g} needs --flops_per_second, to know the hours")
    for name in ("flops_per_second", "cost_per_hour"):
        if (value := getattr(args, name)) is not None and not value > 0:
            raise ConfigError(f"--{name}={value:g} must be above 0")


def planned(args: argparse.Namespace):
    """The plan that the flags ask for."""
    from t5x_like.scaling.planning import plan, presets

    budget = plan.Budget(args.flops, args.unique_tokens, args.inference_tokens, args.max_params)
    if args.preset:
        return plan.from_preset(budget, presets.PRESETS[args.preset])
    found = flags.fitted(args)
    lr, batch, why = (None, None, ()) if Path(args.table).suffix == ".json" else tuned(args)
    made = plan.from_fit(budget, found, lr, batch)
    return dataclasses.replace(made, sources=(*made.sources, *why))


def tuned(args: argparse.Namespace) -> tuple:
    """(power law of the best lr, of the best batch, why there is none): fitted where the table tried several."""
    from t5x_like.scaling.laws import fit, optima

    rows, found, why = flags.table(args), [], []
    for analysis, column in ((optima.LR, "lr"), (optima.BATCH, "batch_tokens")):
        found.append(None)
        if column not in rows:
            continue
        try:
            reduced = analysis.reduce(rows, args.target or "loss")
            found[-1] = fit.fit(reduced, analysis.laws(reduced)[0], **flags.settings(args))
            why.append(f"{column}: minima of the table")
        except ValueError as error:
            why.append(f"{column} is not fitted: {error}")
    return *found, tuple(why)


def facts(made, args: argparse.Namespace) -> dict:
    """The plan as plain numbers."""
    found = {name: dataclasses.asdict(value) for name, value in quantities(made).items()}
    found |= {"shape": made.shape, "training_flops": made.training_flops, "sources": list(made.sources)}
    if args.flops_per_second:
        found["hours"] = made.hours(args.flops_per_second)
        if args.cost_per_hour:
            found["cost"] = found["hours"] * args.cost_per_hour
    return found


def quantities(made) -> dict:
    names = ("n_params", "tokens", "loss", "lr", "batch_tokens")
    return {name: value for name in names if (value := getattr(made, name)) is not None}


def page(made, args: argparse.Namespace) -> str:
    """The plan as text."""
    lines = [f"{name:<14}{interval(value, made.level)}" for name, value in quantities(made).items()]
    lines.insert(2, f"{'tokens / N':<14}{made.tokens.value / made.n_params.value:.4g}")
    shape = ", ".join(f"{name} {value}" for name, value in made.shape.items())
    lines.append(f"{'shape':<14}{shape} (width / depth near 100; gated MLP of 8/3 the width)")
    lines.append(f"{'training':<14}{made.training_flops:.4g} FLOPs")
    if args.inference_tokens:
        lines.append(f"{'inference':<14}{2 * made.n_params.value * args.inference_tokens:.4g} FLOPs")
    numbers = facts(made, args)
    if "hours" in numbers:
        lines.append(
            f"{'hours':<14}{numbers['hours']:.4g}" + (f", cost {numbers['cost']:.4g}" if "cost" in numbers else "")
        )
    return "\n".join([*lines, *(f"{'from':<14}{source}" for source in made.sources)])


def interval(value, level: float) -> str:
    if value.low is None:
        return f"{value.value:.4g}"
    return f"{value.value:.4g}   {100 * level:g}% {value.low:.4g} to {value.high:.4g}"

"""Flags shared by the commands of scaling laws: a table with its columns and rules, a law, and an objective."""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from t5x_like.cli.flags import number, positive, seed, share, whole
from t5x_like.cli.gin.runtime import ConfigError

if TYPE_CHECKING:
    from t5x_like.scaling.laws.fit import Fit
    from t5x_like.scaling.laws.laws import Law
    from t5x_like.scaling.laws.solver import Objective
    from t5x_like.scaling.laws.table import Table

Value = TypeVar("Value")


def add_table(
    parser: argparse.ArgumentParser, table_help: str = "table of runs, .csv or .parquet", nargs: str | None = None
) -> None:
    """Adds the flags of a table of runs."""
    parser.add_argument("table", metavar="TABLE", nargs=nargs, help=table_help)
    parser.add_argument(
        "--columns",
        action="append",
        default=[],
        metavar="OURS=THEIRS,...",
        help='column names of another project\'s file: n_params="Model Size",flops_6nd="Training FLOP"; repeatable',
    )
    parser.add_argument(
        "--drop",
        action="append",
        default=[],
        metavar="RULE",
        help="drop rows: highest_loss=5, lowest_loss=5, 'n_params<1e8'; repeatable",
    )


def add_fitting(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of a fit."""
    parser.add_argument(
        "--law", default="chinchilla", help="name of a law (default: %(default)s); fit --help lists them"
    )
    parser.add_argument("--target", help="column to fit (default: the law's own, usually loss)")
    parser.add_argument("--inputs", metavar="COLUMN,...", help="input columns (default: the law's own)")
    parser.add_argument(
        "--objective", choices=("huber", "l1"), default="huber", help="default: huber, delta 1e-3, on log loss"
    )
    parser.add_argument("--starts", type=positive, help="starting points from the law's grid (default: all)")
    parser.add_argument(
        "--bootstraps", type=bootstraps, default=2000, help="refits for the intervals (default: %(default)s)"
    )
    parser.add_argument("--level", type=share, default=0.95, help="coverage of the intervals (default: %(default)s)")
    parser.add_argument("--seed", type=seed, default=0, help="seed of the bootstraps (default: %(default)s)")


def bootstraps(text: str) -> int:
    """Parses a number of bootstraps: intervals need at least 20."""
    return whole(text, 20)


def load_table(args: argparse.Namespace) -> "Table":
    """Reads the table, derives its columns, and applies the rules of --drop.

    Raises:
      ConfigError: the file does not exist.
    """
    from t5x_like.scaling.laws import checks, filters
    from t5x_like.scaling.laws.table import read

    if not Path(args.table).exists():
        raise ConfigError(f"TABLE={args.table} does not exist; give a .csv or .parquet file")
    table = checks.derive_columns(read(args.table, parse_columns(args.columns)))
    for rule in args.drop:
        table = filters.apply_rule(table, rule)
    return table


def parse_columns(texts: Sequence[str]) -> dict[str, str]:
    """Parses all --columns, 'n_params=Model Size,...', to {"n_params": "Model Size"}.

    Raises:
      ConfigError: a part is not a pair, or a name occurs twice.
    """
    text = ",".join(texts)
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    if wrong := [name for name, sign, theirs in pairs if not (name.strip() and sign and theirs.strip())]:
        raise ConfigError(f'--columns={text}: {wrong[0]!r} maps to nothing; write n_params="Model Size",loss=loss')
    return unique_pairs([(name.strip(), theirs.strip().strip("\"'")) for name, _, theirs in pairs], f"--columns={text}")


def parse_numbers(text: str, flag: str) -> dict[str, float]:
    """Parses 'n_params=7e10,...' to {"n_params": 7e10}.

    Raises:
      ConfigError: a part is not a number, or a name occurs twice.
    """
    try:
        pairs = [(name.strip(), number(value)) for name, value in (part.split("=") for part in text.split(","))]
    except (ValueError, argparse.ArgumentTypeError):
        raise ConfigError(f"{flag}={text} is not a list of numbers; write n_params=7e10,tokens=1.4e12") from None
    return unique_pairs(pairs, f"{flag}={text}")


def unique_pairs(pairs: Sequence[tuple[str, Value]], flag: str) -> dict[str, Value]:
    """Returns the pairs as a mapping; raises ConfigError if a name occurs twice."""
    values: dict[str, Value] = {}
    for name, value in pairs:
        if name in values:
            raise ConfigError(f"{flag} names {name} twice, as {values[name]} and {value}; keep one of them")
        values[name] = value
    return values


def parse_inputs(args: argparse.Namespace) -> tuple[str, ...]:
    """Returns the columns of --inputs, or ()."""
    return tuple(name.strip() for name in args.inputs.split(",")) if args.inputs else ()


def select_law(args: argparse.Namespace, name: str | None = None) -> "Law":
    """Returns the law `name` (None: --law) with the target and inputs of the flags.

    Raises:
      ConfigError: the law is unknown, or has another number of inputs.
    """
    from t5x_like.scaling.laws import laws

    name = name or args.law
    known = {law.name: law for law in laws.ALL_LAWS}
    if name not in known:
        raise ConfigError(f"--law={name} is unknown; use one of {', '.join(known)}")
    law = known[name]
    columns = parse_inputs(args) or law.inputs
    if len(columns) != len(law.inputs):
        raise ConfigError(
            f"--inputs={args.inputs} are {len(columns)}, {name} has {len(law.inputs)}: {', '.join(law.inputs)}"
        )
    return dataclasses.replace(law, inputs=columns, target=args.target or law.target)


def select_objective(args: argparse.Namespace) -> "Objective":
    """Returns the objective of --objective."""
    from t5x_like.scaling.laws import solver

    return {"huber": solver.HUBER, "l1": solver.L1}[args.objective]


def fit_settings(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the keyword arguments of `fit.fit`."""
    return {
        "objective": select_objective(args),
        **{name: getattr(args, name) for name in ("starts", "bootstraps", "level", "seed")},
    }


def load_fit(args: argparse.Namespace) -> "Fit":
    """Reads the fit in a .json file, or fits a law to a table."""
    from t5x_like.scaling.laws import fit

    if Path(args.table).suffix == ".json":
        return fit.read(args.table)
    return fit.fit(load_table(args), select_law(args), **fit_settings(args))

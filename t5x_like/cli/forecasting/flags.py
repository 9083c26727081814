"""Flags that the commands of scaling laws share: a table with its columns and rules, a law, an objective."""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from t5x_like.cli.gin.runtime import ConfigError


def add_table(parser: argparse.ArgumentParser, what: str = "table of runs, .csv or .parquet", nargs=None) -> None:
    parser.add_argument("table", metavar="TABLE", nargs=nargs, help=what)
    parser.add_argument(
        "--columns",
        action="append",
        default=[],
        metavar="OURS=THEIRS,...",
        help='columns of a foreign file: n_params="Model Size",flops_6nd="Training FLOP"; may be given again',
    )
    parser.add_argument(
        "--drop",
        action="append",
        default=[],
        metavar="RULE",
        help="leave rows out: highest_loss=5, lowest_loss=5, 'n_params<1e8'",
    )


def add_fitting(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--law", default="chinchilla", help="a law's name (default: %(default)s); fit --help lists them"
    )
    parser.add_argument("--target", help="column to fit (default: the law's, mostly loss)")
    parser.add_argument("--inputs", metavar="COLUMN,...", help="the law's inputs, where they are other columns")
    parser.add_argument(
        "--objective", choices=("huber", "l1"), default="huber", help="default: huber, delta 1e-3, on log loss"
    )
    parser.add_argument("--starts", type=int, help="points of the law's grid to start from (default: all)")
    parser.add_argument("--bootstraps", type=int, default=2000, help="refits for the intervals (default: %(default)s)")
    parser.add_argument("--level", type=float, default=0.95, help="probability of intervals (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstraps (default: %(default)s)")


def table(args: argparse.Namespace):
    """The rows that the flags name."""
    from t5x_like.scaling.laws import checks, filters
    from t5x_like.scaling.laws.table import read

    if not Path(args.table).exists():
        raise ConfigError(f"TABLE={args.table} is not there; give a .csv or .parquet file")
    found = checks.derive_columns(read(args.table, mapping(args.columns)))
    for rule in args.drop:
        found = filters.apply_rule(found, rule)
    return found


def mapping(texts: Sequence[str]) -> dict[str, str]:
    """{"n_params": "Model Size"} of 'n_params=Model Size,...', from every --columns."""
    text = ",".join(texts)
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    if wrong := [name for name, sign, theirs in pairs if not (name.strip() and sign and theirs.strip())]:
        raise ConfigError(f'--columns={text}: {wrong[0]!r} maps to nothing; write n_params="Model Size",loss=loss')
    return once([(name.strip(), theirs.strip().strip("\"'")) for name, _, theirs in pairs], f"--columns={text}")


def numbers(text: str, flag: str) -> dict[str, float]:
    """{"n_params": 7e10} of 'n_params=7e10,...'."""
    try:
        pairs = [(name.strip(), float(value)) for name, value in (part.split("=") for part in text.split(","))]
    except ValueError:
        raise ConfigError(f"{flag}={text} is no list of numbers; write n_params=7e10,tokens=1.4e12") from None
    return once(pairs, f"{flag}={text}")


def once(pairs: Sequence[tuple], flag: str) -> dict:
    """A mapping of pairs; two values for one name are refused."""
    found: dict = {}
    for name, value in pairs:
        if name in found:
            raise ConfigError(f"{flag} names {name} twice, as {found[name]} and {value}; keep one of them")
        found[name] = value
    return found


def inputs(args: argparse.Namespace) -> tuple[str, ...]:
    """The columns of --inputs; none where it is not given."""
    return tuple(name.strip() for name in args.inputs.split(",")) if args.inputs else ()


def law(args: argparse.Namespace, name: str | None = None):
    """The law of a name, on the columns the flags name."""
    from t5x_like.scaling.laws import laws

    name = name or args.law
    known = {law.name: law for law in laws.ALL_LAWS}
    if name not in known:
        raise ConfigError(f"--law={name} is no law; take one of {', '.join(known)}")
    found = known[name]
    columns = inputs(args) or found.inputs
    if len(columns) != len(found.inputs):
        raise ConfigError(
            f"--inputs={args.inputs} are {len(columns)}, {name} has {len(found.inputs)}: {', '.join(found.inputs)}"
        )
    return dataclasses.replace(found, inputs=columns, target=args.target or found.target)


def objective(args: argparse.Namespace):
    from t5x_like.scaling.laws import solver

    return {"huber": solver.HUBER, "l1": solver.L1}[args.objective]


def settings(args: argparse.Namespace) -> dict:
    """Arguments of `fit.fit` behind the law.

    Raises:
      ConfigError: numbers that cannot be.
    """
    if args.bootstraps < 20 or (args.starts is not None and args.starts < 1) or not 0 < args.level < 1:
        raise ConfigError(
            f"--bootstraps={args.bootstraps} must be 20 at least, --starts={args.starts} 1 at least, --level={args.level} "
            "between 0 and 1"
        )
    return {
        "objective": objective(args),
        **{name: getattr(args, name) for name in ("starts", "bootstraps", "level", "seed")},
    }


def fitted(args: argparse.Namespace):
    """The fit in a .json file, or of a law to a table."""
    from t5x_like.scaling.laws import fit

    if Path(args.table).suffix == ".json":
        return fit.read(args.table)
    return fit.fit(table(args), law(args), **settings(args))

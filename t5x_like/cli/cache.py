"""Tokenizes the tasks of a run file, or --task, ahead of training, so that a machine without TensorFlow can train from them.

Works with all cores (--workers), goes on where it was killed, and prints what is in every cache and what rows make of it.
With --runner it is an Apache Beam pipeline (requirements-beam.txt), whose options follow behind --.
"""

import argparse
import json
import os
import shlex
import sys
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table

from t5x_like.cli import inspection
from t5x_like.cli.gin import runtime
from t5x_like.data import mixing
from t5x_like.data.cache import token_cache
from t5x_like.data.cache.token_cache import TokenCache
from t5x_like.progress import format_rows_report

EXAMPLES = """examples:
  t5x_like cache --gin_file=runs/pretrain.gin ... --gin.TASK=python_docs_bytes
  t5x_like cache --task=python_docs_bytes --split=train --workers=2 --verify
  t5x_like cache --gin_file=... --runner=DataflowRunner -- --project=P --region=R --temp_location=gs://B/tmp
"""
ROWS = ("train_rows", "eval_rows")


def main(argv: Sequence[str]) -> int:
    args = parsed(argv)
    if args.inspect:
        inspection.inspect(args)
        return 0
    set_flags(args)
    config = None if args.task else runtime.from_flags(args)
    rows = {} if config is None else dict(rows_of(config))
    caches = list(caches_of_task(args)) if config is None else list(caches_of_run(config, rows))
    console = Console(soft_wrap=True, highlight=False, width=None if sys.stdout.isatty() else 160)
    for cache in caches:
        _ = cache.manifest
        if args.verify:
            cache.verify()
        console.print(f"{cache.folder}  fingerprint {cache.manifest['fingerprint']}")
    console.print(summary(caches))
    for name, one in rows.items():
        console.print(format_rows_report(mixing.reports(one), name))
    return 0


def parsed(argv: Sequence[str]) -> argparse.Namespace:
    """The flags; what stands behind -- is for the Beam pipeline."""
    argv = list(argv)
    place = argv.index("--") if "--" in argv else len(argv)
    parser = argparse.ArgumentParser(
        prog="t5x_like cache",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--task", action="append", help="build this task, without a run file; may be given several times"
    )
    parser.add_argument("--split", action="append", help="of --task (default: train and validation)")
    parser.add_argument(
        "--module", default="t5x_like.tasks.pretraining", help="that registers --task (default: %(default)s)"
    )
    parser.add_argument("--arguments", type=json.loads, default={}, help="JSON; what module.define(task, **it) takes")
    parser.add_argument("--root", help="folder of the caches of --task (default: $T5X_LIKE_CACHE)")
    parser.add_argument("--workers", type=int, help="processes that tokenize (default: all cores)")
    parser.add_argument("--verify", action="store_true", help="also compare every file with its checksums")
    parser.add_argument(
        "--inspect", type=int, default=0, metavar="N", help="print N rows, tokenized now; nothing is kept"
    )
    parser.add_argument("--runner", help="build by Apache Beam: DirectRunner, DataflowRunner, FlinkRunner, SparkRunner")
    runtime.add_flags(parser)
    args = runtime.parse_args(parser, argv[:place])
    args.options = argv[place + 1 :]
    if bool(args.task) == bool(args.gin_file):
        parser.error("give --gin_file=... or --task=..., and not both")
    if args.options and not args.runner:
        parser.error(f"{args.options} are for a Beam pipeline, and there is no --runner")
    if args.workers is not None and args.workers < 1:
        parser.error(f"--workers={args.workers} must be at least 1")
    return args


def set_flags(args: argparse.Namespace) -> None:
    """What the building program is to do, wherever it is started from: a mixture opens its caches when it is made."""
    flags = [f"--workers={args.workers}"] * (args.workers is not None)
    flags += [f"--runner={args.runner}", "--", *args.options] if args.runner else []
    if flags:
        os.environ[token_cache.FLAGS_VARIABLE] = shlex.join(flags)


def caches_of_task(args: argparse.Namespace) -> Iterator[TokenCache]:
    """The caches that --task and --split name."""
    for task in args.task:
        for split in args.split or ("train", "validation"):
            yield TokenCache(task, split, args.module, args.root, arguments=args.arguments)


def caches_of_run(config, rows) -> Iterator[TokenCache]:
    """The caches that a run reads: those of its rows, and of the tasks that it evaluates."""
    for one in rows.values():
        yield from one.caches
    for evaluation in config.evaluate("trainer.train.evaluations"):
        yield evaluation.cache


def rows_of(config) -> Iterator[tuple[str, object]]:
    """The rows that a run file trains and evaluates on, by name."""
    for name in ROWS:
        rows = config.evaluate(f"trainer.train.{name}")
        if rows is not None:
            yield name, rows


def summary(caches: Sequence[TokenCache]) -> Table:
    """A line for every cache: what it holds, and what its source dropped."""
    table = Table(box=None, pad_edge=False)
    for column in ("task/split", "documents", "tokens", "tokens/byte", "dropped"):
        table.add_column(column, justify="left" if column in ("task/split", "dropped") else "right", no_wrap=True)
    for cache in caches:
        features = cache.manifest["features"]
        tokens = " + ".join(f"{one['tokens']:,} {feature}" for feature, one in features.items())
        texts = [one for one in features.values() if one["text_bytes"]]
        size = sum(one["text_bytes"] for one in texts)
        rate = f"{sum(one['tokens'] for one in texts) / size:.3f}" if size else "-"
        dropped = ", ".join(f"{count:,} {rule}" for rule, count in cache.manifest.get("dropped", {}).items())
        table.add_row(f"{cache.task}/{cache.split}", f"{cache.manifest['documents']:,}", tokens, rate, dropped or "0")
    return table

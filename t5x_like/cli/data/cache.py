"""Tokenizes the tasks of a run file, or --task, before training, so that training needs no TensorFlow.

Uses all cores (--workers), resumes if interrupted, and prints a summary of every cache and of the rows made from it. With
--runner it runs an Apache Beam pipeline (requirements-beam.txt), whose options follow after --.
"""

import argparse
import json
import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from t5x_like import interrupts
from t5x_like.cli import flags
from t5x_like.cli.gin import runtime
from t5x_like.data import inspection, mixing
from t5x_like.data.cache import token_cache
from t5x_like.data.cache.token_cache import TokenCache

EXAMPLES = """examples:
  t5x_like cache --gin_file=runs/pretrain.gin ... --gin.TASK=python_docs_bytes
  t5x_like cache --task=python_docs_bytes --split=train --workers=2 --verify
  t5x_like cache --gin_file=... --runner=DataflowRunner -- --project=P --region=R --temp_location=gs://B/tmp
"""


def main(argv: Sequence[str]) -> int:
    """Runs `t5x_like cache`."""
    args = parse_flags(argv)
    if args.inspect:
        inspect(args)
        return 0
    with interrupts.explain("stopped; the same command resumes after the last complete part"):
        build(args)
    return 0


def build(args: argparse.Namespace) -> None:
    """Builds the caches and prints their summary."""
    from t5x_like.progress import format_rows_report

    set_build_flags(args)
    config = None if args.task else runtime.from_flags(args)
    rows = {} if config is None else dict(rows_of(config))
    caches = list(caches_of_task(args)) if config is None else list(caches_of_run(config, rows))
    console = Console(soft_wrap=True, highlight=False, width=None if sys.stdout.isatty() else 160)
    for cache in caches:
        _ = cache.manifest
        if args.verify:
            cache.verify()
        console.print(f"{cache.folder}  fingerprint {cache.manifest['fingerprint']}")
    console.print(summarize(caches))
    for path in (cache.folder / token_cache.REJECTS for cache in caches):
        if path.exists():
            console.print(f"dropped records, by file and number: {path}")
    for name, split_rows in rows.items():
        console.print(format_rows_report(mixing.reports(split_rows), name))


def parse_flags(argv: Sequence[str]) -> argparse.Namespace:
    """Parses the flags; `options` are those after --, for the Beam pipeline."""
    argv = list(argv)
    end = argv.index("--") if "--" in argv else len(argv)
    parser = flags.Parser(
        prog="t5x_like cache",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--task", action="append", help="tokenize this task, without a run file (repeatable)")
    parser.add_argument("--split", action="append", help="split of --task (repeatable; default: train and validation)")
    parser.add_argument(
        "--module", default="t5x_like.tasks.pretraining", help="module that registers --task (default: %(default)s)"
    )
    parser.add_argument(
        "--arguments", type=json.loads, default={}, help="JSON object: arguments of module.define(task, ...)"
    )
    parser.add_argument("--root", help="folder of the caches of --task (default: $T5X_LIKE_CACHE)")
    parser.add_argument("--workers", type=flags.positive, help="number of tokenizing processes (default: all cores)")
    parser.add_argument("--verify", action="store_true", help="also verify the checksum of every file")
    parser.add_argument(
        "--inspect", type=flags.count, default=0, metavar="N", help="print N rows, tokenized now and not cached"
    )
    parser.add_argument(
        "--runner", help="build with Apache Beam: DirectRunner, DataflowRunner, FlinkRunner, SparkRunner"
    )
    runtime.add_flags(parser)
    args = runtime.parse_args(parser, argv[:end])
    args.options = argv[end + 1 :]
    if bool(args.task) == bool(args.gin_file):
        parser.error("give either --gin_file=... or --task=...")
    parser.check_needless(args, ["split", "module", "arguments", "root"], "task")
    parser.check_needless(args, ["inspect"], "gin_file")
    if args.options and not args.runner:
        parser.error(f"{args.options} are for a Beam pipeline, but there is no --runner")
    return args


def inspect(args: argparse.Namespace) -> None:
    """Prints the first `args.inspect` rows, made from the tasks' first documents without a cache."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # silences TensorFlow
    config = runtime.from_flags(args, last=["runs/inspect.gin"])
    inspection.print_rows(config.evaluate("trainer.train.train_rows"), args.inspect)


def set_build_flags(args: argparse.Namespace) -> None:
    """Passes flags to the build program by environment variable, because opening a cache anywhere may start it."""
    flags = [f"--workers={args.workers}"] * (args.workers is not None)
    flags += [f"--runner={args.runner}", "--", *args.options] if args.runner else []
    if flags:
        os.environ[token_cache.FLAGS_VARIABLE] = shlex.join(flags)


def caches_of_task(args: argparse.Namespace) -> Iterator[TokenCache]:
    """Yields the caches that --task and --split name."""
    for task in args.task:
        for split in args.split or ("train", "validation"):
            yield TokenCache(task, split, args.module, args.root, arguments=args.arguments)


def caches_of_run(config: runtime.Config, rows: Mapping[str, Any]) -> Iterator[TokenCache]:
    """Yields the caches that a run reads: those of its rows and of its task evaluations."""
    for split_rows in rows.values():
        yield from split_rows.caches
    for evaluation in config.evaluate("trainer.train.evaluation").tasks:
        yield evaluation.cache


def rows_of(config: runtime.Config) -> Iterator[tuple[str, Any]]:
    """Yields (name, rows) of the training and evaluation rows of a run file."""
    yield "train_rows", config.evaluate("trainer.train.train_rows")
    rows = config.evaluate("trainer.train.evaluation").rows
    if rows is not None:
        yield "eval_rows", rows


def summarize(caches: Sequence[TokenCache]) -> Table:
    """One line per cache: documents, tokens, and what its source dropped."""
    table = Table(box=None, pad_edge=False)
    for column in ("task/split", "documents", "tokens", "tokens/byte", "dropped"):
        table.add_column(column, justify="left" if column in ("task/split", "dropped") else "right", no_wrap=True)
    for cache in caches:
        features = cache.manifest["features"]
        tokens = " + ".join(f"{facts['tokens']:,} {feature}" for feature, facts in features.items())
        texts = [facts for facts in features.values() if facts["text_bytes"]]
        size = sum(facts["text_bytes"] for facts in texts)
        rate = f"{sum(facts['tokens'] for facts in texts) / size:.3f}" if size else "-"
        dropped = ", ".join(f"{count:,} {rule}" for rule, count in cache.manifest.get("dropped", {}).items())
        table.add_row(f"{cache.task}/{cache.split}", f"{cache.manifest['documents']:,}", tokens, rate, dropped or "0")
    return table

"""The program that builds a token cache: python -m t5x_like.tasks.caching --task=NAME --split=NAME --root=FOLDER."""

import argparse
import functools
import json
import sys
from typing import TYPE_CHECKING

from t5x_like import interrupts
from t5x_like.data.cache import token_cache

if TYPE_CHECKING:
    from t5x_like.tasks.caching import build


def beam_filler(args: argparse.Namespace) -> "build.Filler":
    """A filler that runs a Beam pipeline.

    Raises:
      ImportError: Beam is not installed.
    """
    try:
        from t5x_like.tasks.caching import beam
    except ImportError as error:
        raise ImportError(
            f"--runner={args.runner} needs Apache Beam ({error}), which conflicts with this environment's protobuf; create "
            "a separate environment as described in requirements-beam.txt, and run this command there"
        ) from error
    return functools.partial(
        beam.fill,
        module=args.module,
        arguments=args.arguments,
        runner=args.runner,
        options=args.options,
        parts=args.parts,
    )


def main(argv: list[str] | None = None) -> int:
    """Builds the cache that the flags describe; returns the exit code."""
    try:
        with interrupts.program():
            return run(argv)
    except interrupts.Interrupted as interrupt:
        print("stopped; the same command resumes after the last complete part", file=sys.stderr)
        return interrupt.exit_code


def run(argv: list[str] | None) -> int:
    """Parses the flags and builds; imports TensorFlow, which takes seconds."""
    from t5x_like.tasks.caching import build

    parser = argparse.ArgumentParser(
        prog="python -m t5x_like.tasks.caching", description="Tokenizes a split of a task."
    )
    parser.add_argument("--task", required=True)
    parser.add_argument("--split", required=True)
    parser.add_argument(
        "--module", default="t5x_like.tasks.pretraining", help="registers the task (default: %(default)s)"
    )
    parser.add_argument("--root", default=str(token_cache.default_root()))
    parser.add_argument("--arguments", type=json.loads, default={}, help="JSON; arguments of module.define(task, ...)")
    parser.add_argument("--workers", type=int, default=None, help="tokenizing processes (default: one per core)")
    parser.add_argument(
        "--part_seconds", type=float, default=build.PART_SECONDS, help="at most this much work is lost by a kill"
    )
    parser.add_argument("--runner", help="build by Apache Beam: DirectRunner, DataflowRunner, FlinkRunner, SparkRunner")
    parser.add_argument("--parts", help="with --runner: a folder that all machines can reach (default: below --root)")
    parser.add_argument("options", nargs="*", help="with --runner: options of the pipeline, after --")
    args = parser.parse_args(argv)
    try:
        if args.workers is not None and args.workers < 1:
            raise ValueError(f"workers={args.workers} must be at least 1")
        filler = beam_filler(args) if args.runner else None
        spec = (args.task, args.split, args.module, args.root, args.arguments)
        build.build(*spec, args.workers, args.part_seconds, filler=filler)
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The program that fills a token cache: python -m t5x_like.tasks.caching --task=NAME --split=NAME --root=FOLDER."""

import argparse
import functools
import json
import sys

from t5x_like.data.cache import token_cache
from t5x_like.tasks.caching import build


def by_beam(args: argparse.Namespace) -> build.Filler:
    """What fills a folder by a Beam pipeline.

    Raises:
      ImportError: Beam is not in this environment.
    """
    try:
        from t5x_like.tasks.caching import beam
    except ImportError as error:
        raise ImportError(
            f"--runner={args.runner} needs Apache Beam ({error}), which does not go with this environment's protobuf; make "
            "one of its own as requirements-beam.txt says, and run this there"
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
    parser = argparse.ArgumentParser(prog="python -m t5x_like.tasks.caching", description="Tokenizes a split.")
    parser.add_argument("--task", required=True)
    parser.add_argument("--split", required=True)
    parser.add_argument("--module", default="t5x_like.tasks.pretraining")
    parser.add_argument("--root", default=str(token_cache.default_root()))
    parser.add_argument("--arguments", type=json.loads, default={}, help="JSON; what module.define(task, **it) takes")
    parser.add_argument("--workers", type=int, default=None, help="processes that tokenize; all cores by default")
    parser.add_argument("--part_seconds", type=float, default=build.PART_SECONDS, help="work that a kill can cost")
    parser.add_argument("--runner", help="build by Apache Beam: DirectRunner, DataflowRunner, FlinkRunner, SparkRunner")
    parser.add_argument("--parts", help="with --runner: folder that all machines reach; below --root by default")
    parser.add_argument("options", nargs="*", help="with --runner: the pipeline's options, behind --")
    args = parser.parse_args(argv)
    try:
        if args.workers is not None and args.workers < 1:
            raise ValueError(f"workers={args.workers} must be at least 1")
        filled = by_beam(args) if args.runner else None
        order = (args.task, args.split, args.module, args.root, args.arguments)
        build.build(*order, args.workers, args.part_seconds, filled=filled)
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

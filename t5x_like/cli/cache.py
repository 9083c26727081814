"""Tokenizes the tasks of a run file ahead of training, so that a machine without TensorFlow can train from the cache.

Prints one line per split: where its cache is, its fingerprint, documents and tokens.
"""

import argparse
from collections.abc import Sequence

from t5x_like.cli import gin_runtime


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="t5x_like cache", description=__doc__)
    parser.add_argument("--verify", action="store_true", help="also compare every file with its checksum")
    gin_runtime.add_flags(parser)
    args = gin_runtime.parse_args(parser, argv)
    config = gin_runtime.from_flags(args)
    for name in ("train_rows", "eval_rows"):
        rows = config.evaluate(f"trainer.train.{name}")
        if rows is None:
            continue
        cache = rows.cache
        manifest = cache.manifest
        if args.verify:
            cache.verify()
        tokens = ", ".join(f"{x['tokens']:,} {feature}" for feature, x in manifest["features"].items())
        print(
            f"{cache.folder}  fingerprint {manifest['fingerprint']}  {manifest['documents']:,} documents, tokens: {tokens}"
        )
    return 0

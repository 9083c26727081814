"""Trains a model, or resumes a run that was interrupted.

Gin files choose everything; runs/pretrain.gin says which files go together. The same command resumes a run.
"""

from collections.abc import Sequence

from t5x_like.cli import flags
from t5x_like.cli.gin import runtime


def main(argv: Sequence[str]) -> int:
    """Runs `t5x_like train`."""
    parser = flags.Parser(prog="t5x_like train", description=__doc__)
    runtime.add_flags(parser)
    from t5x_like.cli import setup

    setup.add_flags(parser)
    args = runtime.parse_args(parser, argv)
    setup.initialize(args)
    config = runtime.from_flags(args)
    config.bind("trainer.train")(config=config.resolved_config())
    print(f"done: {config.evaluate('trainer.train.run_dir')}")
    return 0

"""Trains a model, or resumes a run that was interrupted.

Gin files choose everything; runs/pretrain.gin says which files go together. The same command resumes a run.

Ctrl-C and SIGTERM finish the step and save a checkpoint; a second Ctrl-C ends at once. Exit codes: 0 all steps are done, 2 an
error, 130 (Ctrl-C) or 143 (SIGTERM) interrupted and saved: the same command resumes the run.
"""

from collections.abc import Sequence
from pathlib import Path

from t5x_like import interrupts, locks
from t5x_like.cli import flags
from t5x_like.cli.gin import runtime
from t5x_like.cli.gin.runtime import ConfigError
from t5x_like.run_dir import RunDir


def main(argv: Sequence[str]) -> int:
    """Runs `t5x_like train`."""
    parser = flags.Parser(prog="t5x_like train", description=__doc__)
    runtime.add_flags(parser)
    flags.add_machine(parser)
    args = runtime.parse_args(parser, argv)
    import jax

    from t5x_like.cli import setup

    setup.initialize(args)
    config = runtime.from_flags(args)
    run_dir = config.evaluate("trainer.train.run_dir")
    check_folder(run_dir)
    check_moved(config, run_dir)
    with interrupts.explain(f"stopped before the first step; the same command starts or resumes {run_dir}"):
        if jax.process_count() == 1:  # several take the lock together, in trainer.train
            locks.check_free(RunDir(run_dir).lock, f"run_dir={run_dir}")
        check_before_data(config, run_dir)
        config.bind("trainer.train")(config=config.resolved_config())
    print(f"done: {run_dir}")
    return 0


def check_folder(run_dir: str) -> None:
    """Checks that a run directory can be a folder.

    Raises:
      ConfigError: RUN_DIR is empty, a URL, or a file or below one.
    """
    if not run_dir.strip():
        raise ConfigError("RUN_DIR is empty; give --gin.RUN_DIR=FOLDER")
    if "://" in run_dir:
        raise ConfigError(f"RUN_DIR={run_dir} is a URL; give a folder, such as one in which the bucket is mounted")
    path = Path(run_dir).absolute()
    nearest = next(folder for folder in (path, *path.parents) if folder.exists())
    if not nearest.is_dir():
        raise ConfigError(f"RUN_DIR={run_dir}: {nearest} is a file; give a folder")


def check_moved(config: runtime.Config, run_dir: str) -> None:
    """Checks that a run which was moved is not started anew in its old place.

    Raises:
      ConfigError: RUN_DIR is that of a run's config.gin, and no longer exists.
    """
    place = next((binding.place for binding in config.bindings if binding.macro == "RUN_DIR"), None)
    folder = Path(place.file).absolute().parent if place and place.line else Path(run_dir)
    if RunDir(folder).checkpoints.is_dir() and not Path(run_dir).exists():
        raise ConfigError(
            f"RUN_DIR={run_dir} of {RunDir(folder).config} does not exist, the run is in {folder}; give "
            f"--gin.RUN_DIR={folder} to resume it, or --gin.RUN_DIR=FOLDER for a new run"
        )


def check_before_data(config: runtime.Config, run_dir: str) -> None:
    """Checks the numbers of a run and its model, and the parameters that a new run starts from, before any data is tokenized.

    Raises:
      FileNotFoundError, ValueError: a number is out of range, or there is no checkpoint that fits the model.
    """
    from flax.core import meta

    from t5x_like import checkpoints
    from t5x_like.cli import info
    from t5x_like.models import ranges
    from t5x_like.training import trainer

    numbers = ("steps", "batch_size", "microbatches", "log_every", "seed")
    trainer.check_numbers(**{name: config.evaluate(f"trainer.train.{name}") for name in numbers})
    parts = ("model", "objective", "initialize_from")
    model, objective, initial = (config.evaluate(f"trainer.train.{name}") for name in parts)
    ranges.check(model)
    ranges.check(objective)
    if initial is None or checkpoints.complete_steps(RunDir(run_dir).checkpoints):
        return
    initial.check(meta.unbox(info.abstract_params(model, info.row_lengths(model, 8, None))))

"""Writes the model of a tuned run as a run of its own: adapters are merged into the weights.

`t5x_like merge RUN_DIR --out=FOLDER`; FOLDER can be decoded, evaluated, exported, and fine-tuned (--gin.INITIAL=FOLDER). Commands
that read RUN_DIR itself merge in memory, so this is for what starts from its model.
"""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

from t5x_like.cli import flags
from t5x_like.cli.gin.runtime import Config, ConfigError
from t5x_like.files import atomic
from t5x_like.run_dir import RunDir

OF_MODEL = ("trainer.train.transform", "trainer.train.initialize_from")  # what made the parameters


def main(argv: Sequence[str]) -> int:
    """Runs `t5x_like merge`."""
    parser = flags.Parser(
        prog="t5x_like merge", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", help="run directory")
    parser.add_argument("--out", required=True, help="run directory to write; must not exist or be empty")
    parser.add_argument("--step", type=flags.count, help="checkpoint to read (default: the newest)")
    args = parser.parse_args(argv)
    out = Path(args.out).absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out={args.out} already exists; give a new folder, or remove it")
    with atomic.new_folder(out) as partial:
        step = write(args.source, args.step, partial)
    print(f"merged {args.source} (step {step}) as {args.out}; try: t5x_like infer --run_dir={args.out} --prompt='...'")
    return 0


def write(source: str, step: int | None, folder: Path) -> int | None:
    """Writes the run directory; returns the step that was read."""
    from t5x_like import checkpoints, prompt_batches
    from t5x_like.cli import hf, setup

    run = setup.TrainedRun(source, step=step)
    params = run.stored_params(prompt_batches.one_token(run.model.sides))
    target = RunDir(folder)
    target.config.write_text(without_tuning(run.config).resolved_config())
    if run.vocabulary is not None:
        run.vocabulary.save(target.vocabulary)
    original = Path(source) / hf.ORIGINAL
    if original.exists():
        shutil.copyfile(original, folder / hf.ORIGINAL)
    saver = checkpoints.Checkpointer(target.checkpoints)
    saver.save(0, {"params": params}, {"data": "merged"})
    saver.close()
    return run.step


def without_tuning(config: Config) -> Config:
    """The configuration of the model, in which all parameters are its own."""
    names = [name.rpartition(".")[::2] for name in OF_MODEL]
    kept = [
        binding
        for binding in config.bindings
        if not any(binding.selector == config.find(owner) and binding.parameter == name for owner, name in names)
    ]
    return Config(config.names, tuple(kept))

"""What commands that compute have in common: several processes, the compile cache, and the run directory they read."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import jax

from t5x_like import checkpoints, parameters, partitioning
from t5x_like.cli.gin import runtime
from t5x_like.data.cache import token_cache
from t5x_like.data.tokenizers import loading
from t5x_like.run_dir import RunDir


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of every command that computes."""
    group = parser.add_argument_group("machine")
    group.add_argument(
        "--compile_cache",
        default=str(token_cache.default_root() / "xla"),
        metavar="FOLDER",
        help="where compiled programs are kept between runs, '' for nowhere (default: %(default)s)",
    )
    group.add_argument(
        "--distributed",
        action="store_true",
        help="several processes: join the others (found by themselves on TPU and SLURM)",
    )
    group.add_argument("--coordinator", metavar="HOST:PORT", help="with --distributed: address of process 0")
    group.add_argument(
        "--process_count", type=int, metavar="N", help="with --coordinator: how many processes there are"
    )
    group.add_argument("--process_index", type=int, metavar="I", help="with --coordinator: which of them this is")


def set_up(args: argparse.Namespace) -> None:
    """Joins the other processes, and turns the compile cache on."""
    if args.distributed or args.coordinator:
        # A CPU runs programs side by side, and Gloo takes one's messages for the other's; other devices run them in order.
        jax.config.update("jax_cpu_enable_async_dispatch", False)
        jax.distributed.initialize(args.coordinator, args.process_count, args.process_index)
    if args.compile_cache:
        Path(args.compile_cache).mkdir(parents=True, exist_ok=True)
        jax.config.update("jax_compilation_cache_dir", args.compile_cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
        # XLA's notes on a cached program's exact CPU features are of no use to a reader.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


class Run:
    """A trained run opened for reading: its model, and its parameters laid out on this machine's devices.

    Gin files of `more` are read after the run's own.
    """

    def __init__(self, run_dir: str, overrides: Sequence[str] = (), step: int | None = None, more: Sequence[str] = ()):
        config = RunDir(run_dir).config
        if not config.exists():
            raise FileNotFoundError(
                f"run_dir: {config} is not there; give the directory of a run made by `t5x_like train`"
            )
        self.config = runtime.parse([str(config), *more], overrides)
        self.model = self.config.evaluate("trainer.train.model")
        self.mesh = self.config.evaluate("trainer.train.mesh") or partitioning.make_mesh()
        self.rules = self.config.evaluate("trainer.train.rules")
        self.precision = self.config.evaluate("trainer.train.precision")
        folder = RunDir(run_dir).vocabulary
        self.vocabulary = loading.load(folder) if folder.exists() else None
        self.run_dir, self.step = run_dir, step

    def params(self, batch):
        """Parameters of the newest (or the asked-for) step, in the dtype to compute in; `batch` has the model's inputs."""
        boxed = parameters.boxed(self.model, batch, self.mesh, self.rules, self.precision)
        abstract = parameters.abstract(boxed, partitioning.shardings(boxed, self.mesh, self.rules))
        params, self.step = checkpoints.restore_params(self.run_dir, abstract, self.step)
        return self.precision.to_compute_dtype(params)

    def stored_params(self, batch):
        """Parameters of a step as they are stored, every one in its own dtype."""
        boxed = parameters.boxed(self.model, batch, self.mesh, self.rules, self.precision)
        abstract = parameters.abstract(boxed, partitioning.shardings(boxed, self.mesh, self.rules))
        params, self.step = checkpoints.restore_params(self.run_dir, abstract, self.step, keep_dtypes=True)
        return params

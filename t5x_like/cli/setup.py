"""Set-up shared by commands: joining several processes, the compile cache, and opening a trained run."""

import argparse
import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from t5x_like import checkpoints, parameters, partitioning, prompt_batches
from t5x_like.cli.gin import runtime, trust
from t5x_like.cli.gin.runtime import ConfigError
from t5x_like.data.cache import sources
from t5x_like.data.tokenizers import loading
from t5x_like.decoding.beams import BeamSearch
from t5x_like.decoding.contrastive import Contrast
from t5x_like.decoding.processors import Processor
from t5x_like.decoding.proposers import Draft
from t5x_like.decoding.sampling import Greedy
from t5x_like.decoding.speculative import Proposer
from t5x_like.quantization import cache, weights
from t5x_like.run_dir import RunDir
from t5x_like.types import Params, Rows, Sampler, Vocabulary

DECODING = ("CHOOSE", "PROCESSORS", "PROPOSE")  # macros of gin_configs/decoding


def initialize(args: argparse.Namespace) -> None:
    """Joins the other processes and enables the compile cache, as the flags of `flags.add_machine` say.

    Raises:
      ConfigError: only some of --coordinator, --process_count and --process_index, or an index that is too large.
    """
    names = ("coordinator", "process_count", "process_index")
    given = [name for name in names if getattr(args, name) is not None]
    if given and len(given) < len(names):
        missing = " and ".join(f"--{name}" for name in names if name not in given)
        raise ConfigError(
            f"--{given[0]}={getattr(args, given[0])} needs {missing}; give all three, or --distributed alone"
        )
    if given and args.process_index >= args.process_count:
        raise ConfigError(
            f"--process_index={args.process_index} is not below --process_count={args.process_count}; indices start at 0"
        )
    if args.distributed or args.coordinator:
        # A CPU runs programs concurrently, and Gloo confuses their messages; other devices run programs in order.
        jax.config.update("jax_cpu_enable_async_dispatch", False)
        jax.distributed.initialize(args.coordinator, args.process_count, args.process_index)
    use_compile_cache(args.compile_cache)


def use_compile_cache(folder: str) -> None:
    """Keeps compiled programs in a folder; "" for none."""
    if not folder:
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    # Silences XLA's warnings about the CPU features of cached programs.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def read_decoding(config: runtime.Config) -> tuple[Sampler | BeamSearch, Sequence[Processor]]:
    """The sampler or beam search CHOOSE (default: greedy) and the PROCESSORS (default: none) of gin files.

    Raises:
      ConfigError: the files set nothing of decoding, or a proposer.
    """
    sampler, processors, proposer = read_speculative(config)
    if proposer is not None:
        raise ConfigError(
            f"PROPOSE={proposer}: only infer has speculative decoding; leave out the gin file that sets it"
        )
    return sampler, processors


def read_speculative(config: runtime.Config) -> tuple[Sampler | BeamSearch, Sequence[Processor], Proposer | None]:
    """The results of `read_decoding`, and the proposer PROPOSE of speculative decoding (default: none)."""
    bound = {binding.macro for binding in config.bindings} & set(DECODING)
    sampler = Greedy() if bound and "CHOOSE" not in bound else config.evaluate("%CHOOSE")
    processors = config.evaluate("%PROCESSORS") if "PROCESSORS" in bound else ()
    return sampler, processors, config.evaluate("%PROPOSE") if "PROPOSE" in bound else None


def open_draft(run_dir: str, tokens: int, run: "TrainedRun") -> Draft:
    """The model of another run, on the mesh of `run`, as the draft of its speculative decoding.

    Raises:
      ConfigError: the runs have different vocabularies, or only one has an encoder.
    """
    draft = open_beside("draft_run", run_dir, run)
    return Draft(draft.model, draft.params(draft.example_batch()), tokens)


def open_contrast(run_dir: str, alpha: float, run: "TrainedRun") -> tuple[Contrast, Params]:
    """The contrast of a run's model with an amateur, that of another run, on its mesh: (model, parameters).

    Raises:
      ConfigError: the runs have different vocabularies, only one has an encoder, or alpha is out of range.
    """
    amateur = open_beside("amateur_run", run_dir, run)
    opened = [parameters.unroll(each.model, each.params(each.example_batch())) for each in (run, amateur)]
    try:
        model = Contrast(opened[0][0], opened[1][0], alpha)
    except ValueError as error:
        raise ConfigError(f"--amateur_run={run_dir} --alpha={alpha}: {error}") from error
    return model, {"expert": opened[0][1], "amateur": opened[1][1]}


def open_beside(flag: str, run_dir: str, run: "TrainedRun") -> "TrainedRun":
    """Another run, named by a flag, whose model reads the batches of `run`, on its mesh and quantized as it is.

    Raises:
      ConfigError: the runs have different vocabularies, or only one has an encoder.
    """
    other = TrainedRun(run_dir, mesh=run.mesh, quantization=run.quantization, kv_cache_dtype=run.kv_cache_dtype)
    fingerprints = [each.require_vocabulary().fingerprint for each in (other, run)]
    if fingerprints[0] != fingerprints[1]:
        raise ConfigError(
            f"--{flag}={run_dir} has another vocabulary (fingerprint {fingerprints[0][:12]}) than --run_dir={run.run_dir} "
            f"({fingerprints[1][:12]}); give a run that was trained with the same one"
        )
    if other.model.sides != run.model.sides:
        raise ConfigError(
            f"--{flag}={run_dir} has a model with the sides {other.model.sides}, and --run_dir={run.run_dir} one with "
            f"{run.model.sides}; give a run with a model of the same kind"
        )
    return other


class TrainedRun:
    """A trained run, opened for reading: its configuration, model, vocabulary and parameters.

    The gin files of `extra_files` are read after the run's own. The run's own may name only parts of t5x_like that build
    models and settings, and `allowed` modules; see `gin.trust`. `mesh` replaces the run's. `quantization` and `kv_cache_dtype`
    are those of `serving.options.Options`.

    Raises:
      FileNotFoundError: the directory has no config.gin.
      ConfigError: config.gin is not valid, or names what is not allowed.
    """

    def __init__(
        self,
        run_dir: str,
        overrides: Sequence[str] = (),
        step: int | None = None,
        extra_files: Sequence[str] = (),
        search_paths: Sequence[str] = (),
        allowed: Sequence[str] = (),
        mesh: Mesh | None = None,
        quantization: str | None = None,
        kv_cache_dtype: str | None = None,
    ) -> None:
        config = RunDir(run_dir).newest_config
        if not config.exists():
            raise FileNotFoundError(
                f"run_dir: {config} does not exist; give the directory of a run made by `t5x_like train`"
            )
        self.config = runtime.parse(extra_files, overrides, search_paths, DECODING, str(config), allowed)
        self.model = self.config.evaluate("trainer.train.model")
        if kv_cache_dtype is not None:
            self.model = cache.quantize(self.model, kv_cache_dtype)
        self.mesh = mesh or self.config.evaluate("trainer.train.mesh") or partitioning.make_mesh()
        self.rules = self.config.evaluate("trainer.train.rules")
        self.precision = self.config.evaluate("trainer.train.precision")
        self.transform = self.config.evaluate("trainer.train.transform")
        folder = RunDir(run_dir).vocabulary
        self.vocabulary: Vocabulary | None = loading.load(folder) if folder.exists() else None
        self.run_dir, self.step = run_dir, step
        self.quantization, self.kv_cache_dtype = quantization, kv_cache_dtype

    def require_vocabulary(self) -> Vocabulary:
        """The vocabulary of the run.

        Raises:
          FileNotFoundError: the run has none, such as a model that was imported without a tokenizer.
        """
        if self.vocabulary is None:
            raise FileNotFoundError(
                f"run_dir: {self.run_dir} has no vocabulary; import the model from a folder with a tokenizer"
            )
        return self.vocabulary

    def example_batch(self) -> dict[str, np.ndarray]:
        """A batch of one token with the inputs that the model has."""
        return prompt_batches.one_token(self.model.sides)

    @functools.cached_property
    def rows(self) -> Rows | None:
        """The rows that the run trains on, of whose data nothing is known: for their lengths and features. None if imported."""
        for name in ("%ROWS", "trainer.train.train_rows"):
            try:
                found = self.config.evaluate(name)
            except ConfigError:
                continue
            return found(cache=None) if name == "%ROWS" else found
        return None

    @property
    def row_lengths(self) -> Mapping[str, int]:
        """The tokens per row that the run trains on, by side; {} if unknown."""
        return {} if self.rows is None else self.rows.lengths

    @property
    def is_prefix_lm(self) -> bool:
        """Whether the run trains on rows with a bidirectional prefix."""
        return self.rows is not None and "decoder_prefix" in self.rows.extra_features

    def params(self, batch: Any) -> Params:
        """Parameters of `step` (None: the newest) in the compute dtype, or quantized, sharded; `batch` has the model's inputs."""
        params = self.precision.to_compute_dtype(self._restore(batch, keep_dtypes=False))
        return params if self.quantization is None else weights.quantize(self.model, params, self.quantization)

    def stored_params(self, batch: Any) -> Params:
        """Parameters of `step` in the dtypes of the checkpoint."""
        return self._restore(batch, keep_dtypes=True)

    def stored_parts(self, batch: Any) -> tuple[Params, Params]:
        """(trained, frozen) parameters of `step` in the dtypes of the checkpoint."""
        return self._restore_parts(batch, keep_dtypes=True)

    def base_params(self, batch: Any, model: Any) -> Params | None:
        """The parameters of `model` before they were tuned; None if no checkpoint holds all of them."""
        boxed = parameters.init_abstract(model, batch, self.mesh, self.rules, self.precision)
        abstract = parameters.abstract(boxed, partitioning.shardings(boxed, self.mesh, self.rules))
        return checkpoints.restore_base(self.run_dir, abstract, self.step)

    def _restore(self, batch: Any, keep_dtypes: bool) -> Params:
        return parameters.plain(self.transform.merge(*self._restore_parts(batch, keep_dtypes)))

    def _restore_parts(self, batch: Any, keep_dtypes: bool) -> tuple[Params, Params]:
        boxed = parameters.init_abstract(self.model, batch, self.mesh, self.rules, self.precision)
        parts = parameters.split_abstract(self.transform, boxed)
        trained, frozen = (parameters.abstract(x, partitioning.shardings(x, self.mesh, self.rules)) for x in parts)
        params, fixed, self.step = checkpoints.restore_parts(self.run_dir, trained, frozen, self.step, keep_dtypes)
        return params, fixed


def open_from_flags(
    args: argparse.Namespace, run_dir: str, step: int | None, overrides: Sequence[str] = ()
) -> TrainedRun:
    """Opens a run whose tasks are read, with the gin files and overrides of the flags, `overrides`, and --module allowed.

    Raises:
      ConfigError: config.gin is not valid, or names what is not allowed, also as the module of a task.
    """
    allowed = [args.module] if args.module else []
    if args.module and sources.locate(args.module) is None:
        raise ConfigError(
            f"--module={args.module}: there is no such module; run in its folder, or put that on PYTHONPATH"
        )
    run = TrainedRun(
        run_dir, [*args.gin_overrides, *overrides], step, args.gin_file, runtime.search_paths(args), allowed
    )
    trust.check_task_modules(run.config.bindings)
    return run

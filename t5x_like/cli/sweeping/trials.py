"""Resolves the trials of a sweep: gin files and macros become one text, its hash, and the columns known before a run."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from t5x_like.accounting import flops
from t5x_like.cli import info
from t5x_like.cli.gin import runtime
from t5x_like.cli.gin.runtime import Config
from t5x_like.scaling.planning import recipes
from t5x_like.scaling.planning.recipes import Counts
from t5x_like.scaling.sweeps import trials
from t5x_like.scaling.sweeps.trials import Trial
from t5x_like.types import PathLike

RECIPE_MACROS = ("LEARNING_RATE", "BATCH_SIZE", "STEPS", "WARMUP_STEPS", "SEED")  # do not change the model
PLACEHOLDER = "RUN_DIR = 'run'"  # in the text that is hashed


class BaseConfig:
    """The base configuration of a sweep, parsed again for every trial; every model in it is measured once."""

    def __init__(
        self,
        files: Sequence[str],
        settings: Mapping[str, Any],
        directory: PathLike,
        search_paths: Sequence[str] = (),
    ) -> None:
        self.files, self.settings, self.search_paths = files, settings, search_paths
        self.directory = Path(directory).resolve()
        self.measured: dict[str, Counts] = {}

    def config(self, macros: Mapping[str, Any]) -> Config:
        """Parses the files with these macros and parameters set over them."""
        values = {**self.settings, **macros, "RUN_DIR": "run"}
        overrides = [f"--gin.{name}={value!r}" for name, value in values.items()]
        return runtime.parse(self.files, overrides, self.search_paths)

    def counts(self, macros: Mapping[str, Any]) -> Counts:
        """Sizes of the configured model."""
        macros = {name: value for name, value in macros.items() if name not in RECIPE_MACROS}
        key = json.dumps(macros, sort_keys=True, default=repr)
        if key not in self.measured:
            self.measured[key] = model_counts(self.config(macros))
        return self.measured[key]

    def trial(self, macros: Mapping[str, Any]) -> Trial:
        """The run with these macros; its id does not depend on the sweep's directory."""
        counts = self.counts(macros)
        config = self.config(macros)  # last, because gin holds one configuration
        text = config.resolved_config()
        run_id = trials.hash_config(text)
        run_dir = self.directory / run_id
        text = text.replace(f"\n{PLACEHOLDER}\n", f"\nRUN_DIR = {str(run_dir)!r}\n")
        return Trial(run_id, run_dir, text, macros, known_columns(config, counts))


def known_columns(config: Config, counts: Counts) -> dict[str, Any]:
    """The columns of a run that its configuration determines, and its steps."""
    steps, batch, seed = (config.evaluate(f"trainer.train.{name}") for name in ("steps", "batch_size", "seed"))
    peak, decay = peak_and_decay(learning_rate_of(config), steps)
    row: dict[str, Any] = recipes.run_columns(counts, {"BATCH_SIZE": batch, "STEPS": steps})
    row |= {"lr": peak, "decay": decay, "sequence": counts.row_tokens, "steps": steps, "seed": seed}
    names = {"WIDTH": "width", "LAYERS": "depth", "VOCAB_SIZE": "vocab", "WARMUP_STEPS": "warmup_steps"}
    return row | {column: config.evaluate(f"%{macro}") for macro, column in names.items() if sets_macro(config, macro)}


def sets_macro(config: Config, macro: str) -> bool:
    """Whether a configuration sets a macro."""
    return any(binding.macro == macro for binding in config.bindings)


def model_counts(config: Config) -> Counts:
    """Sizes of the configured model, from its shapes."""
    model, rows = (config.evaluate(f"trainer.train.{name}") for name in ("model", "train_rows"))
    boxed = info.abstract_params(model, rows.lengths)
    sizes = flops.count_parameters(model, boxed)
    tokens = sum(rows.lengths.values())
    train = flops.per_row(model, boxed, rows.lengths).train
    return Counts(sizes["non_embedding"], sizes["total"], sizes["active_per_token"], tokens, train / tokens)


def learning_rate_of(config: Config) -> Any:
    """The learning rate of the configured optimizer of t5x_like.optimizers: a number, a function of the step, or None."""
    for binding in config.bindings:
        if binding.parameter == "learning_rate" and binding.selector.startswith("t5x_like.optimizers:"):
            return config.evaluate(f"{binding.selector.replace(':', '.')}.learning_rate")
    return None


def peak_and_decay(rate: Any, steps: int) -> tuple[float | None, float | None]:
    """(peak learning rate to six digits, last rate over peak rate); a schedule that decays to zero gives 0 for the second."""
    if rate is None:
        return None, None
    if not callable(rate):
        return rate, 1.0
    steps_n = np.unique(np.linspace(0, steps, 2000).astype(int))
    rates = np.asarray(jax.vmap(rate)(steps_n))
    return float(f"{rates.max():.6g}"), round(float(rates[-1] / rates.max()), 6)

"""The cells of a sweep as gin has them: base files and macros resolved to one text, a hash, and what is known before a run."""

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
from t5x_like.scaling.sweeps.trials import Cell

OF_RECIPES = ("LEARNING_RATE", "BATCH_SIZE", "STEPS", "WARMUP_STEPS", "SEED")  # no part of a model
NOWHERE = "RUN_DIR = 'run'"  # stands in the text that is hashed


class Base:
    """A base configuration, read anew for every cell; the models in it are measured once each."""

    def __init__(self, files: Sequence[str], settings: Mapping[str, Any], directory, search_paths: Sequence[str] = ()):
        self.files, self.settings, self.search_paths = files, settings, search_paths
        self.directory = Path(directory).resolve()
        self.measured: dict[str, Counts] = {}

    def config(self, macros: Mapping[str, Any]) -> Config:
        """The configuration with these macros and parameters set over the files."""
        values = {**self.settings, **macros, "RUN_DIR": "run"}
        overrides = [f"--gin.{name}={value!r}" for name, value in values.items()]
        return runtime.parse(self.files, overrides, self.search_paths)

    def counts(self, macros: Mapping[str, Any]) -> Counts:
        macros = {name: value for name, value in macros.items() if name not in OF_RECIPES}
        key = json.dumps(macros, sort_keys=True, default=repr)
        if key not in self.measured:
            self.measured[key] = counts(self.config(macros))
        return self.measured[key]

    def cell(self, macros: Mapping[str, Any]) -> Cell:
        """The run of these macros; its id does not depend on where the sweep is."""
        counted = self.counts(macros)
        config = self.config(macros)  # after what else is parsed: gin holds one configuration
        text = config.resolved_config()
        run_id = trials.run_id(text)
        run_dir = self.directory / run_id
        text = text.replace(f"\n{NOWHERE}\n", f"\nRUN_DIR = {str(run_dir)!r}\n")
        return Cell(run_id, run_dir, text, macros, columns(config, counted))


def columns(config: Config, counted: Counts) -> dict[str, Any]:
    """The row of a run as far as its configuration knows it, and its steps."""
    steps, batch, seed = (config.evaluate(f"trainer.train.{name}") for name in ("steps", "batch_size", "seed"))
    peak, decay = peak_and_end(schedule(config), steps)
    row = recipes.columns(counted, {"BATCH_SIZE": batch, "STEPS": steps})
    row |= {"lr": peak, "decay": decay, "sequence": counted.row_tokens, "steps": steps, "seed": seed}
    names = {"WIDTH": "width", "LAYERS": "depth", "VOCAB_SIZE": "vocab", "WARMUP_STEPS": "warmup_steps"}
    return row | {column: config.evaluate(f"%{macro}") for macro, column in names.items() if sets(config, macro)}


def sets(config: Config, macro: str) -> bool:
    return any(binding.macro == macro for binding in config.bindings)


def counts(config: Config) -> Counts:
    """Sizes of the configured model, from its shapes."""
    model, rows = (config.evaluate(f"trainer.train.{name}") for name in ("model", "train_rows"))
    boxed = info.abstract_params(model, rows.lengths)
    sizes = flops.parameters(model, boxed)
    tokens = sum(rows.lengths.values())
    train = flops.per_row(model, boxed, rows.lengths).train
    return Counts(sizes["non_embedding"], sizes["total"], sizes["active_per_token"], tokens, train / tokens)


def schedule(config: Config) -> Any:
    """The learning rate of the configured optimizer of optimizers.py: a number or a function of the step; None without one."""
    for binding in config.bindings:
        if binding.parameter == "learning_rate" and binding.selector.startswith("t5x_like.optimizers:"):
            return config.evaluate(f"{binding.selector.replace(':', '.')}.learning_rate")
    return None


def peak_and_end(rate: Any, steps: int) -> tuple[float | None, float | None]:
    """The highest rate, to six digits, and what is left of it at the end, 0 where it decays to zero."""
    if rate is None:
        return None, None
    if not callable(rate):
        return rate, 1.0
    steps_n = np.unique(np.linspace(0, steps, 2000).astype(int))
    rates = np.asarray(jax.vmap(rate)(steps_n))
    return float(f"{rates.max():.6g}"), round(float(rates[-1] / rates.max()), 6)

"""Recipes of runs: batch, steps, learning rate and warmup, by laws of N, D and C.

    learning rate = 1.79 N^-0.713 D^0.307, batch = 0.58 D^0.571 tokens    (Step Law: Li et al. 2025)
    PowerLaw(1.79, n=-0.713, d=0.307), PowerLaw(0.58, d=0.571)

With muP (scaling/mup) the learning rate is a constant instead, PowerLaw(0.01): the optimizer scales it by width.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Counts:
    """Counts of a model that need no training; `exact_per_token` are training FLOPs."""

    n_params: int
    n_total: int
    n_active: int
    row_tokens: int
    exact_per_token: float


def flops_6n(counts: Counts) -> float:
    """Returns training FLOPs per token as 6 N, N without the embedding (Kaplan et al. 2020)."""
    return 6.0 * counts.n_params


def flops_6n_total(counts: Counts) -> float:
    """Returns training FLOPs per token as 6 N, N all parameters."""
    return 6.0 * counts.n_total


def flops_exact(counts: Counts) -> float:
    """Returns training FLOPs per token with attention and active experts, by t5x_like.accounting.flops."""
    return counts.exact_per_token


@dataclasses.dataclass(frozen=True)
class PowerLaw:
    """coefficient N^n D^d C^c; a constant without exponents."""

    coefficient: float
    n: float = 0.0
    d: float = 0.0
    c: float = 0.0

    def __call__(self, n_params: float, tokens: float, flops: float) -> float:
        """Evaluates the law at N, D and C."""
        return self.coefficient * n_params**self.n * tokens**self.d * flops**self.c


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Turns a model and its compute into the macros of a run; `count` selects the FLOP count of budgets."""

    learning_rate: Callable[[float, float, float], float]
    batch_tokens: Callable[[float, float, float], float]
    warmup: float = 0.05  # share of the steps
    least_warmup: int = 10  # steps, if the run is long enough
    count: Callable[[Counts], float] = flops_6n

    def macros(self, counts: Counts, flops: float) -> dict[str, Any]:
        """Returns BATCH_SIZE, STEPS, WARMUP_STEPS and LEARNING_RATE of a run of `flops`.

        Raises:
          ValueError: the budget is less than one step.
        """
        tokens = flops / self.count(counts)
        rows = max(round(self.batch_tokens(counts.n_params, tokens, flops) / counts.row_tokens), 1)
        per_step = rows * counts.row_tokens * self.count(counts)
        steps = round(flops / per_step)
        if steps < 1:
            raise ValueError(
                f"a budget of {flops:.3g} FLOPs is less than one step of {per_step:.3g} (N={counts.n_params:,}, a batch "
                f"of {rows} rows of {counts.row_tokens} tokens); raise it, or use smaller models or batches"
            )
        rate = self.learning_rate(counts.n_params, tokens, flops)
        warmup = min(max(round(self.warmup * steps), self.least_warmup), steps // 2)
        return {
            "BATCH_SIZE": rows,
            "STEPS": steps,
            "WARMUP_STEPS": warmup,
            "LEARNING_RATE": float(f"{rate:.6g}"),  # equal on machines whose pow differs in the last bit
        }


def run_columns(counts: Counts, macros: Mapping[str, Any]) -> dict[str, float]:
    """Returns the columns of the table of runs that follow from a model and the macros of its run."""
    batch = macros["BATCH_SIZE"] * counts.row_tokens
    tokens = batch * macros["STEPS"]
    per_token = {"flops_6nd": flops_6n, "flops_with_embeddings": flops_6n_total, "flops_exact": flops_exact}
    return {
        "n_params": counts.n_params,
        "n_total": counts.n_total,
        "n_active": counts.n_active,
        "tokens": tokens,
        **{name: count(counts) * tokens for name, count in per_token.items()},
        "batch_tokens": batch,
    }

"""Evaluation: an objective's metrics over one pass of some rows, with perplexity and bits per byte."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from t5x_like import partitioning
from t5x_like.data.stream import Stream


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """Evaluates parameters of one model on one set of rows; compiled once, used as often as wanted.

    `batches` bounds how many batches are read (None: all rows once).
    """

    apply: Callable
    objective: Callable
    rows: Any
    batch_size: int
    mesh: Mesh
    rules: partitioning.Rules = partitioning.RULES
    batches: int | None = None

    def __post_init__(self):
        partitioning.check_batch(self.batch_size, 1, self.mesh, self.rules)

        def step(params, batch):
            _, _, metrics = self.objective(self.apply, params, batch, None)
            return metrics

        object.__setattr__(self, "step", jax.jit(step))

    def __len__(self) -> int:
        """How many batches one evaluation reads."""
        all_batches = -(-len(self.rows) // self.batch_size)
        return all_batches if self.batches is None else min(self.batches, all_batches)

    def __call__(self, params, progress: Callable[[Iterator], Iterator] = iter) -> dict[str, float]:
        """Metrics by name; `params` in the dtype to compute in; `progress` wraps the iterator of batches."""
        stream = Stream(self.rows, self.batch_size, shuffle=False)
        sharding = partitioning.batch_sharding(self.mesh, self.rules)
        sums: dict[str, np.ndarray] = {}
        target_bytes = 0
        with partitioning.on(self.mesh, self.rules):
            for batch in progress(first(stream.once(), len(self))):
                target_bytes += bytes_of_targets(batch, self.rows.vocabulary)
                placed = partitioning.global_batch(
                    lambda start, stop, batch=batch: {k: x[start:stop] for k, x in batch.items()},
                    self.batch_size,
                    sharding,
                )
                for name, pair in jax.device_get(self.step(params, placed)).items():
                    sums[name] = sums.get(name, 0.0) + np.asarray(pair, np.float64)
        return summarize(sums, target_bytes)


def first(batches: Iterator, count: int) -> Iterator:
    """The first `count` batches, and not one more is made."""
    for _, batch in zip(range(count), batches, strict=False):
        yield batch


def bytes_of_targets(batch: dict[str, np.ndarray], vocabulary) -> int:
    """UTF-8 bytes that the counted targets of a batch stand for."""
    side = "decoder" if "decoder_target_tokens" in batch else "encoder"
    counted = batch[f"{side}_loss_weights"] > 0
    return int(vocabulary.bytes_per_token_V[batch[f"{side}_target_tokens"][counted]].sum())


def summarize(sums: dict[str, np.ndarray], target_bytes: int) -> dict[str, float]:
    """Means of (total, count) pairs, with perplexity = e^loss and bits per byte = nats / (ln 2 * bytes)."""
    metrics = {name: float(total / max(count, 1e-9)) for name, (total, count) in sums.items()}
    nats, tokens = sums["loss"]
    metrics["perplexity"] = math.exp(min(metrics["loss"], 700.0))
    if target_bytes:
        metrics["bits_per_byte"] = float(nats) / math.log(2) / target_bytes
    metrics["target_tokens"] = float(tokens)
    return metrics

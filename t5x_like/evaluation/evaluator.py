"""Evaluation: an objective's metrics over one pass of some rows, with perplexity and bits per byte."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from t5x_like import partitioning
from t5x_like.data import mixing
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
        for task, rows in self.parts.items():
            if len(rows) == 0:
                raise ValueError(
                    f"eval_rows {task} of {rows.caches[0].task}/{rows.caches[0].split} hold no row: the split is shorter "
                    f"than one row of {rows.lengths}; shorten the lengths, or evaluate on more text"
                )

        def step(params, batch):
            _, _, metrics = self.objective(self.apply, params, batch, None)
            return metrics

        object.__setattr__(self, "step", jax.jit(step))

    @functools.cached_property
    def parts(self) -> dict[str, Any]:
        """The rows by task: those of a mixture are measured one after the other."""
        return mixing.parts(self.rows)

    def __len__(self) -> int:
        """How many batches one evaluation reads."""
        return sum(self.batches_of(rows) for rows in self.parts.values())

    def batches_of(self, rows) -> int:
        """How many batches are read of one task."""
        whole = -(-len(rows) // self.batch_size)
        return whole if self.batches is None else min(self.batches, whole)

    def __call__(self, params, progress: Callable[[Iterator], Iterator] = iter) -> dict[str, float]:
        """Metrics by name; `params` in the dtype to compute in; `progress` wraps the iterator of batches.

        Of a mixture there are those of each task as `task/metric`, and those of all tasks together. `loss_se` is the
        standard error of the loss (see standard_error), where LEAST_BATCHES of each task or more were measured.
        """
        sums: dict[str, dict[str, np.ndarray]] = {name: {} for name in self.parts}
        losses: dict[str, list] = {name: [] for name in self.parts}
        target_bytes = dict.fromkeys(self.parts, 0)
        sharding = partitioning.batch_sharding(self.mesh, self.rules)
        with partitioning.on(self.mesh, self.rules):
            for task, batch in progress(self.planned()):
                target_bytes[task] += bytes_of_targets(batch, self.rows.vocabulary)
                placed = partitioning.global_batch(
                    lambda start, stop, batch=batch: {k: x[start:stop] for k, x in batch.items()},
                    self.batch_size,
                    sharding,
                )
                measured = jax.device_get(self.step(params, placed))
                losses[task].append(measured["loss"])
                add(sums[task], measured)
        whole: dict[str, np.ndarray] = {}
        for one in sums.values():
            add(whole, one)
        results = summarize(whole, sum(target_bytes.values())) | standard_error(list(losses.values()))
        for task in self.parts if len(self.parts) > 1 else ():
            each = summarize(sums[task], target_bytes[task]) | standard_error([losses[task]])
            results |= {f"{task}/{name}": value for name, value in each.items()}
        return results

    def planned(self) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        """(task, batch) of everything that is measured."""
        for task, rows in self.parts.items():
            stream = Stream(rows, self.batch_size, shuffle=False)
            for batch in first(stream.once(), self.batches_of(rows)):
                yield task, batch


def add(sums: dict[str, np.ndarray], pairs: Mapping[str, Any]) -> None:
    """Adds (total, count) pairs by name."""
    for name, pair in pairs.items():
        sums[name] = sums.get(name, 0.0) + np.asarray(pair, np.float64)


def first(batches: Iterator, count: int) -> Iterator:
    """The first `count` batches, and not one more is made."""
    for _, batch in zip(range(count), batches, strict=False):
        yield batch


def bytes_of_targets(batch: dict[str, np.ndarray], vocabulary) -> int:
    """UTF-8 bytes that the counted targets of a batch stand for."""
    side = "decoder" if "decoder_target_tokens" in batch else "encoder"
    counted = batch[f"{side}_loss_weights"] > 0
    return int(vocabulary.bytes_per_token_V[batch[f"{side}_target_tokens"][counted]].sum())


LEAST_BATCHES = 8  # of a task, for a standard error that is one


def standard_error(losses: Sequence[Sequence[np.ndarray]]) -> dict[str, float]:
    """{"loss_se": standard error of the mean loss} over text like this, or nothing where batches are few.

    `losses` are each task's (total, count) pairs by batch. Batches are neighbouring text and stand for themselves, so that
    tokens of a document, which go together, do not count as so many measurements. With L_b nats and n_b tokens in batch b:

        se^2 = sum over tasks of m / (m - 1) sum_b (L_b - n_b L / n)^2 / (all tokens)^2    (a ratio of means, by strata)
    """
    if min(map(len, losses)) < LEAST_BATCHES:
        return {}
    squares, tokens = 0.0, 0.0
    for pairs in losses:
        nats_b, count_b = np.asarray(pairs, np.float64).T
        off_b = nats_b - count_b * nats_b.sum() / max(count_b.sum(), 1e-9)
        squares += len(pairs) / (len(pairs) - 1) * np.sum(off_b**2)
        tokens += count_b.sum()
    return {"loss_se": math.sqrt(squares) / max(tokens, 1e-9)}


def summarize(sums: dict[str, np.ndarray], target_bytes: int) -> dict[str, float]:
    """Means of (total, count) pairs, with perplexity = e^loss and bits per byte = nats / (ln 2 * bytes)."""
    metrics = {name: float(total / max(count, 1e-9)) for name, (total, count) in sums.items()}
    nats, tokens = sums["loss"]
    metrics["perplexity"] = math.exp(min(metrics["loss"], 700.0))
    if target_bytes:
        metrics["bits_per_byte"] = float(nats) / math.log(2) / target_bytes
    metrics["target_tokens"] = float(tokens)
    return metrics

"""Losses of a model on rows: an objective's metrics over one pass, with perplexity and bits per byte."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from t5x_like import partitioning
from t5x_like.batches import check_groups, features
from t5x_like.data import mixing
from t5x_like.data.prefetch import Prefetch
from t5x_like.data.stream import Stream
from t5x_like.types import Apply, Metrics, Objective, Params, Rows, Vocabulary

MIN_BATCHES = 8  # per task, to estimate a standard error


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """Evaluates parameters of one model on fixed rows. Compiled once.

    `batches` limits how many batches are read per task (None: all rows once).

    Raises:
      ValueError: a batch size that does not fit the mesh or splits groups of rows, or a task without rows.
    """

    apply: Apply
    objective: Objective
    rows: Rows
    batch_size: int
    mesh: Mesh
    rules: partitioning.Rules = partitioning.RULES
    batches: int | None = None
    references: Mapping[str, Params] = dataclasses.field(default_factory=dict)
    step: Callable[..., Metrics] = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        partitioning.check_batch(self.batch_size, 1, self.mesh, self.rules)
        for rows in self.parts.values():
            if len(rows) == 0:
                raise ValueError(
                    f"Evaluation.rows of {rows.caches[0].task}/{rows.caches[0].split} are empty: the split is shorter "
                    f"than one row of {rows.lengths}; reduce the lengths, or evaluate on more text"
                )
            check_groups(rows.group, self.batch_size, 1, partitioning.batch_devices(self.mesh, self.rules))

        def step(
            params: Params, batch: Mapping[str, jax.Array], references: Mapping[str, Params], after: jax.Array
        ) -> Metrics:
            """The metrics of a batch, computed after another's: a CPU would run both at once, in twice the memory."""
            extra = {"references": references} if references else {}
            _, _, metrics = self.objective(self.apply, params, batch, None, **extra)
            return metrics

        object.__setattr__(self, "step", jax.jit(step, out_shardings=self.everywhere, keep_unused=True))

    @property
    def everywhere(self) -> NamedSharding:
        """The sharding of an array that every device has."""
        return NamedSharding(self.mesh, PartitionSpec())

    @functools.cached_property
    def parts(self) -> dict[str, Any]:
        """The rows by task; the tasks of a mixture are evaluated one after the other."""
        return mixing.components(self.rows)

    def __len__(self) -> int:
        """The number of batches that one evaluation reads."""
        return sum(self.count_batches(rows) for rows in self.parts.values())

    def count_batches(self, rows: Rows) -> int:
        """The number of batches read of one task."""
        total = -(-len(rows) // self.batch_size)
        return total if self.batches is None else min(self.batches, total)

    def __call__(self, params: Params, progress: Callable[[Iterator], Iterator] = iter) -> dict[str, float]:
        """Returns metrics by name. `params` have the compute dtype; `progress` wraps the iterator of batches.

        A mixture has the metrics of all tasks together and those of each task as `task/metric`. `loss_se` is the standard
        error of the loss (see `standard_error`), if each task has at least MIN_BATCHES batches.
        """
        sums: dict[str, dict[str, np.ndarray]] = {name: {} for name in self.parts}
        losses: dict[str, list] = {name: [] for name in self.parts}
        target_bytes = dict.fromkeys(self.parts, 0)
        with partitioning.on(self.mesh, self.rules):
            for task, n_bytes, computed in self.measure(params, progress):
                metrics = jax.device_get(computed)
                target_bytes[task] += n_bytes
                losses[task].append(metrics["loss"])
                add_metrics(sums[task], metrics)
        total: dict[str, np.ndarray] = {}
        for task_sums in sums.values():
            add_metrics(total, task_sums)
        results = summarize(total, sum(target_bytes.values())) | standard_error(list(losses.values()))
        for task in self.parts if len(self.parts) > 1 else ():
            task_results = summarize(sums[task], target_bytes[task]) | standard_error([losses[task]])
            results |= {f"{task}/{name}": value for name, value in task_results.items()}
        return results

    def measure(self, params: Params, progress: Callable[[Iterator], Iterator]) -> Iterator[tuple[str, int, Metrics]]:
        """Yields (task, bytes of the targets, metrics) of every batch.

        Batches are made ahead in a thread, and each is dispatched before the metrics of the previous one are waited for.
        """
        shardings = {
            task: partitioning.batch_shardings(features(rows), self.mesh, self.rules)
            for task, rows in self.parts.items()
        }

        def place(item: tuple[str, dict[str, np.ndarray]]) -> tuple[str, int, dict[str, jax.Array]]:
            task, batch = item
            rows = functools.partial(slice_rows, batch)
            placed = partitioning.global_batch(rows, self.batch_size, shardings[task])
            return task, count_target_bytes(batch, self.rows.vocabulary), placed

        in_flight: list[tuple[str, int, Metrics]] = []
        after = jax.device_put(np.float32(0), self.everywhere)
        with contextlib.closing(Prefetch(place, self.task_batches())) as inputs:
            for task, n_bytes, placed in progress(inputs):
                metrics = self.step(params, placed, self.references, after)
                after = metrics["loss"][0]
                in_flight.append((task, n_bytes, metrics))
                if len(in_flight) > 1:
                    yield in_flight.pop(0)
        yield from in_flight

    def task_batches(self) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        """Yields (task, batch) of every batch to evaluate."""
        for task, rows in self.parts.items():
            stream = Stream(rows, self.batch_size, shuffle=False)
            for batch in take(stream.once(), self.count_batches(rows)):
                yield task, batch


def add_metrics(sums: dict[str, np.ndarray], metrics: Metrics) -> None:
    """Adds (total, count) pairs to `sums`, by name."""
    for name, pair in metrics.items():
        sums[name] = sums.get(name, 0.0) + np.asarray(pair, np.float64)


def slice_rows(batch: Mapping[str, np.ndarray], start: int, stop: int) -> dict[str, np.ndarray]:
    """Rows `start` to `stop` of a batch."""
    return {name: x[start:stop] for name, x in batch.items()}


def take(batches: Iterator, count: int) -> Iterator:
    """Yields the first `count` batches, without making another one."""
    for _, batch in zip(range(count), batches, strict=False):
        yield batch


def count_target_bytes(batch: dict[str, np.ndarray], vocabulary: Vocabulary) -> int:
    """The UTF-8 bytes of the targets that have a loss weight."""
    side = "decoder" if "decoder_target_tokens" in batch else "encoder"
    weighted = batch[f"{side}_loss_weights"] > 0
    return int(vocabulary.bytes_per_token_V[batch[f"{side}_target_tokens"][weighted]].sum())


def standard_error(losses: Sequence[Sequence[np.ndarray]]) -> dict[str, float]:
    """Returns {"loss_se": standard error of the mean loss}, or {} if a task has fewer than MIN_BATCHES batches.

    `losses` are each task's (total, count) pairs by batch. A batch of consecutive text is one measurement, because the
    tokens of a document are correlated. With L_b nats and n_b tokens in batch b (a stratified ratio of means):

        se^2 = sum over tasks of m / (m - 1) sum_b (L_b - n_b L / n)^2 / (all tokens)^2
    """
    if min(map(len, losses)) < MIN_BATCHES:
        return {}
    squares, tokens = 0.0, 0.0
    for pairs in losses:
        nats_b, count_b = np.asarray(pairs, np.float64).T
        deviation_b = nats_b - count_b * nats_b.sum() / max(count_b.sum(), 1e-9)
        squares += len(pairs) / (len(pairs) - 1) * np.sum(deviation_b**2)
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

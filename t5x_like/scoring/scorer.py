"""The log-probabilities of rows: sorted by length, in batches of few shapes, each of which is compiled once."""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from t5x_like import partitioning
from t5x_like.batching import sharded
from t5x_like.objectives.tokens import is_largest, split_chunks, token_logps
from t5x_like.prompt_batches import add_prefix, pad_rows
from t5x_like.scoring.rows import Row, position_table
from t5x_like.types import Model, Params

UNIT = 16  # lengths are 16 or 48 times a power of two
ROW = ("positions", "targets")  # features of a batch that the model does not read: those of a Row


@dataclasses.dataclass(frozen=True)
class Scores:
    """Scores of N targets, with the K most likely tokens of each.

    Attributes:
      targets_N: token ids.
      log_probs_N: log p(target), float32, nats.
      greedy_N: whether the target is the most likely token.
      top_ids_NK: the most likely tokens, the most likely first.
      top_log_probs_NK: their log-probabilities.
      dropped: the number of context ids that were cut off.
    """

    targets_N: np.ndarray
    log_probs_N: np.ndarray
    greedy_N: np.ndarray
    top_ids_NK: np.ndarray
    top_log_probs_NK: np.ndarray
    dropped: int = 0

    @property
    def log_prob(self) -> float:
        """The sum of the log-probabilities, in float64."""
        return float(self.log_probs_N.sum(dtype=np.float64))

    @property
    def greedy(self) -> bool:
        """Whether every target is the most likely token."""
        return bool(self.greedy_N.all())

    @classmethod
    def join(cls, parts: Sequence["Scores"], top: int = 0) -> "Scores":
        """The scores of several rows as one; `top` is K, for no rows."""
        none = np.zeros((0, top))
        parts = parts or [cls(np.zeros(0, np.int32), np.zeros(0, np.float32), np.zeros(0, bool), none, none)]
        return cls(
            np.concatenate([part.targets_N for part in parts]),
            np.concatenate([part.log_probs_N for part in parts]),
            np.concatenate([part.greedy_N for part in parts]),
            np.concatenate([part.top_ids_NK for part in parts]),
            np.concatenate([part.top_log_probs_NK for part in parts]),
            sum(part.dropped for part in parts),
        )


class Scorer:
    """Computes the scores of rows, in their order, with the `top` most likely tokens of every target.

    The vocabulary's logits are computed for the targets alone, UNIT of them per row at a time. A shape is compiled once, at
    its first use. With `prefix` a decoder reads the prefixes of rows bidirectionally.

    Raises:
      ValueError: the model does not predict tokens, or `top` is not in 0 .. its vocabulary.
    """

    def __init__(
        self,
        model: Model,
        mesh: Mesh,
        rules: partitioning.Rules = partitioning.RULES,
        batch_size: int = 32,
        top: int = 0,
        prefix: bool = False,
    ) -> None:
        check_scores(model)
        if not 0 <= top <= model.vocab_size:
            raise ValueError(f"top={top} must be 0 to {model.vocab_size}, the size of the vocabulary")
        self.model, self.top, self.prefix = model, top, prefix
        self.table = position_table(model)
        self.function = sharded.ShardedFunction(make_score_fn(model, top), batch_size, mesh, rules)

    def __call__(self, params: Params, rows: Sequence[Row]) -> list[Scores]:
        """The scores of all rows; `params` have the compute dtype."""
        results: dict[int, Scores] = {}
        shapes = [self.shape_of(row) for row in rows]
        order = sorted(range(len(rows)), key=lambda i: shapes[i], reverse=True)  # what is too large fails at once
        for begin in range(0, len(order), self.function.size):
            chunk = order[begin : begin + self.function.size]
            shape = tuple(max(sizes) for sizes in zip(*(shapes[i] for i in chunk), strict=True))
            values = self.function(params, self.make_batch([rows[i] for i in chunk], shape))
            for place, i in enumerate(chunk):
                row, count = rows[i], len(rows[i].targets)
                log_probs_T, greedy_T, ids_TK, top_TK = (value_BT[place, :count] for value_BT in values)
                targets_T = np.asarray(row.targets, np.int32)
                results[i] = Scores(targets_T, log_probs_T, greedy_T, ids_TK, top_TK, row.dropped)
        return [results[i] for i in range(len(rows))]

    def shape_of(self, row: Row) -> tuple[int, ...]:
        """The padded lengths of a row: its sides, the last one first, and its targets."""
        count = len(row.targets)
        sides = [len(row.inputs[side]) for side in self.model.sides[::-1]]
        # A row beyond the position table keeps its length, which the model refuses.
        padded = [max(size, min(round_length(size), self.table or sys.maxsize)) for size in sides]
        return (*padded, round_length(count) if count > 1 else 1)

    def make_batch(self, rows: Sequence[Row], shape: tuple[int, ...]) -> dict[str, np.ndarray]:
        """The arrays of rows padded to the lengths of `shape_of`: what the model reads, and the features in ROW."""
        *lengths, count = shape
        batch: dict[str, np.ndarray] = {}
        for side, length in zip(self.model.sides[::-1], lengths, strict=True):
            batch |= pad_rows([row.inputs[side] for row in rows], length, side)
        if self.prefix:
            batch = add_prefix(batch, [row.prefix for row in rows])
        for name in ROW:
            batch[name] = np.zeros((len(rows), count), np.int32)
            for ids_T, row in zip(batch[name], rows, strict=True):
                ids_T[: len(row.targets)] = getattr(row, name)
        return batch


def check_scores(model: Model) -> None:
    """Checks that a model predicts tokens from those beside or before them.

    Raises:
      ValueError: it does not.
    """
    if "tokens" not in model.outputs or "encoder_order" in model.extra_features:
        raise ValueError(
            f"the model ({type(model).__name__}) has no log-probabilities of tokens from left to right or of masked tokens; use "
            "a decoder-only, encoder-decoder or masked language model"
        )


def round_length(length: int) -> int:
    """The smallest of 16, 32, 48, 64, 96, 128, 192, ... that is at least `length`: less than half of it is padding."""
    power = UNIT << max(0, (length - 1) // UNIT).bit_length()
    return power * 3 // 4 if power > 2 * UNIT and length <= power * 3 // 4 else power


def make_score_fn(model: Model, top: int) -> Callable[[Params, dict[str, Any]], tuple[jax.Array, ...]]:
    """Returns a function (params, batch) -> (log-probs [B, T], greedy [B, T], top ids and log-probs [B, T, K]), to be jitted."""

    def score(params: Params, batch: dict[str, Any]) -> tuple[jax.Array, ...]:
        inputs = {name: x for name, x in batch.items() if name not in ROW}
        positions_BT, targets_BT = (batch[name] for name in ROW)
        x_BLD = model.apply({"params": params}, inputs, method="hidden")
        x_BTD = jnp.take_along_axis(x_BLD, positions_BT[..., None], axis=1)

        def head(part: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, ...]:
            logits_BCV = model.apply({"params": params}, part[0], method="logits")
            log_probs_BC, norm_BC = token_logps(logits_BCV, part[1])
            top_BCK, ids_BCK = jax.lax.top_k(logits_BCV, top)
            return log_probs_BC, is_largest(logits_BCV, part[1]), ids_BCK, top_BCK - norm_BC[..., None]

        chunk = min(UNIT, targets_BT.shape[1])
        values = jax.lax.map(head, (split_chunks(x_BTD, chunk), split_chunks(targets_BT, chunk)))
        return jax.tree.map(join_chunks, values)

    return score


def join_chunks(y_NBC: jax.Array) -> jax.Array:
    """[N, B, C, ...] -> [B, N C, ...]; undoes `split_chunks`."""
    chunks, rows, size = y_NBC.shape[:3]
    return jnp.moveaxis(y_NBC, 0, 1).reshape(rows, chunks * size, *y_NBC.shape[3:])

"""The arrays of a batch: {name: array [B, ...]}, and how rows declare features of their own.

The common features have T5X's names, are [B, L] and int32 unless stated, and need no declaration:

{encoder,decoder}_input_tokens   the tokens the model reads; decoder inputs are the targets shifted right per segment
{encoder,decoder}_positions      0, 1, 2, ... in every segment
{encoder,decoder}_segment_ids    1, 2, 3, ...; 0 marks padding, and nothing else
{encoder,decoder}_target_tokens  the tokens to predict
{encoder,decoder}_loss_weights   float32; 0 where a target does not count

Rows declare all others in `extra_features`. Some of those in t5x_like.data:

decoder_prefix                   1 where attention is bidirectional (prefix LM)
encoder_token_types              BERT's sentence A (0) or B (1)
encoder_order                    the rank at which a token is predicted (permutation LM)
encoder_labels                   the class of a row, [B, 1] (next sentence, sentence order)
task_one_hot                     float32 [B, T], 1 at the row's task in a mixture of T

This module loads NumPy only, so that the data pipeline needs no JAX.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from t5x_like.types import Rows

if TYPE_CHECKING:
    import jax

SIDES = ("encoder", "decoder")


@dataclasses.dataclass(frozen=True)
class Feature:
    """One array of a batch: its `shape` per row, its `dtype`, and `pad`, the value of rows and positions that hold nothing.

    `mask` says that rows and positions of value `pad` do not count, as segment ids and loss weights do. `axes` are the
    logical axes of `shape`, by which the mesh splits it; () splits only the rows. `needed` says that rows mean something else if
    neither the model nor the objective reads it; see `training.contract`.
    """

    shape: tuple[int, ...]
    dtype: str = "int32"
    pad: float = 0
    mask: bool = False
    axes: tuple[str | None, ...] = ()
    needed: bool = dataclasses.field(default=False, compare=False)

    def __post_init__(self) -> None:
        if self.axes and len(self.axes) != len(self.shape):
            raise ValueError(
                f"axes={self.axes} and shape={self.shape} differ in length; name an axis per dimension, or none"
            )


# By their names without the side; the shape of each is (length of the side,).
COMMON: Mapping[str, Feature] = {
    "input_tokens": Feature(()),
    "positions": Feature(()),
    "segment_ids": Feature((), mask=True),
    "target_tokens": Feature(()),
    "loss_weights": Feature((), "float32", mask=True),
}


def common_features(lengths: Mapping[str, int]) -> dict[str, Feature]:
    """The common features of rows with these lengths by side."""
    return {
        f"{side}_{name}": dataclasses.replace(feature, shape=(length,))
        for side, length in lengths.items()
        for name, feature in COMMON.items()
    }


def features(rows: Rows) -> dict[str, Feature]:
    """The features of the arrays that `rows.fetch` returns; fetches the first row (or group of rows) to check them.

    Raises:
      ValueError: there are no rows; or an array is not declared, is declared but missing, or has another shape or dtype.
    """
    kind = type(rows).__name__
    if len(rows) == 0:
        tasks = ", ".join(cache.task for cache in getattr(rows, "caches", ())) or type(rows).__name__
        lengths = ", ".join(f"{side} {length}" for side, length in rows.lengths.items())
        raise ValueError(
            f"the data of {tasks} is shorter than one row (of {lengths} tokens); shorten the lengths, or add data"
        )
    common, extra = common_features(rows.lengths), rows.extra_features
    if twice := sorted(set(common) & set(extra)):
        raise ValueError(f"{kind}.extra_features declares {twice}, which are common features; rename them")
    declared = common | dict(extra)
    batch = rows.fetch(np.arange(rows.group), np.zeros(rows.group, np.int64), 0)
    for name in batch:
        if name not in declared:
            close = difflib.get_close_matches(name, declared, n=1)
            meant = f"did you mean {close[0]!r}? Otherwise declare" if close else "declare"
            raise ValueError(
                f"{kind}.fetch returns the feature {name!r}, which is not declared; {meant} it in extra_features, "
                f"as batches.Feature({batch[name].shape[1:]}, {str(batch[name].dtype)!r}); known are {', '.join(declared)}"
            )
    if missing := [name for name in extra if name not in batch]:
        raise ValueError(
            f"{kind}.extra_features declares {missing}, which fetch does not return; it returns {', '.join(batch)}"
        )
    for name, x in batch.items():
        shape, dtype = (rows.group, *declared[name].shape), np.dtype(declared[name].dtype)
        if x.shape != shape or x.dtype != dtype:
            raise ValueError(
                f"{kind}.fetch returns {name!r} as {x.dtype}{list(x.shape)} for {rows.group} row(s), declared is "
                f"{dtype}{list(shape)}; change the array, or its declaration"
            )
    return {name: declared[name] for name in batch}


def abstract(rows: Rows, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of a batch of `batch_size` of these rows.

    Raises:
      ValueError: there are no rows, or their arrays are not as declared; see `features`.
    """
    return shapes(features(rows), batch_size)


def shapes(declared: Mapping[str, Feature], batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of a batch of `batch_size` rows with these features."""
    import jax

    return {
        name: jax.ShapeDtypeStruct((batch_size, *feature.shape), np.dtype(feature.dtype))
        for name, feature in declared.items()
    }


def check_groups(group: int, batch_size: int, microbatches: int = 1, devices: int = 1) -> None:
    """Refuses a batch whose parts, one per device and microbatch, do not hold whole groups of `group` rows.

    `devices` is the number of parts that the mesh splits the rows into: `partitioning.batch_devices`.
    """
    unit = group * devices * microbatches
    if batch_size % unit:
        below, above = batch_size // unit * unit, (batch_size // unit + 1) * unit
        fits = f"{below} or {above}" if below else f"{above}"
        raise ValueError(
            f"batch_size={batch_size} is not a multiple of {unit} = groups of {group} rows x {devices} devices "
            f"x microbatches={microbatches}, so that a group would be split; use {fits}"
        )


def real_tokens(batch: Mapping[str, np.ndarray]) -> int:
    """The number of tokens that are not padding, on both sides together."""
    return sum(int(np.count_nonzero(batch[name])) for name in batch if name.endswith("_segment_ids"))

"""Rows to score: the ids that a model reads, and the targets that it predicts from them."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from t5x_like.accounting import flops
from t5x_like.types import Model

DEFAULT_LENGTH = 2048  # of models without a position table, as in lm-evaluation-harness


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a batch before padding.

    Attributes:
      inputs: token ids by side, as the model reads them.
      positions: where in the ids of the last side the targets are predicted.
      targets: token ids, one per position.
      prefix: the number of leading ids of a decoder that a prefix LM reads bidirectionally.
      dropped: the number of ids cut off the left of the context.
    """

    inputs: Mapping[str, Sequence[int]]
    positions: Sequence[int]
    targets: Sequence[int]
    prefix: int = 0
    dropped: int = 0


def position_table(model: Any) -> int | None:
    """The tokens that a model's shortest position table holds besides a prompt and virtual tokens; None if it has none."""
    tables = [module.max_length for module in flops.submodules(model) if hasattr(module, "max_length")]
    taken = getattr(model, "virtual_tokens", 0) + getattr(getattr(model, "prompt", None), "count", 0)
    return min(tables) - taken if tables else None


def length_limits(
    model: Model, max_length: int | None = None, trained: Mapping[str, int] | None = None
) -> dict[str, int]:
    """The most ids of a row by side: `max_length`, else the position table, else the `trained` lengths, else 2048.

    Raises:
      ValueError: `max_length` is below 1 or above the position table.
    """
    table = position_table(model)
    if max_length is not None and not 1 <= max_length <= (table or max_length):
        most = "" if table is None else f" and at most {table}, the length of the model's position table"
        raise ValueError(f"max_length={max_length} must be 1 or more{most}")
    return {side: max_length or table or (trained or {}).get(side, DEFAULT_LENGTH) for side in model.sides}


def causal_row(context: Sequence[int], targets: Sequence[int], limit: int, prefix: int = 0) -> Row:
    """The row of a decoder-only model, which predicts every target from the context and the targets before it.

    A row longer than `limit` loses the left of its context, but for one id.

    Raises:
      ValueError: the context is empty, or there are more targets than `limit`.
    """
    if not context:
        raise ValueError("context=[] leaves nothing to predict the first target from; begin it with bos or eos")
    check_length(targets, limit)
    dropped = max(0, len(context) + len(targets) - 1 - limit)
    ids = [*context[dropped:], *targets]
    first = len(context) - dropped - 1
    inputs = ids[:-1] if targets else ids
    return Row({"decoder": inputs}, range(first, first + len(targets)), targets, max(0, prefix - dropped), dropped)


def seq2seq_row(context: Sequence[int], targets: Sequence[int], start: int, limits: Mapping[str, int]) -> Row:
    """The row of an encoder-decoder, whose encoder reads the context. The decoder begins with `start`.

    A context longer than its limit loses its left.

    Raises:
      ValueError: the context is empty, or there are more targets than the decoder's limit.
    """
    if not context:
        raise ValueError("context=[] gives the encoder nothing to read; end it with eos")
    check_length(targets, limits["decoder"])
    dropped = max(0, len(context) - limits["encoder"])
    inputs = {"encoder": context[dropped:], "decoder": [start, *targets[:-1]]}
    return Row(inputs, range(len(targets)), targets, dropped=dropped)


def masked_rows(
    context: Sequence[int],
    targets: Sequence[int],
    around: tuple[Sequence[int], Sequence[int]],
    mask: int,
    limit: int,
    starts_V: np.ndarray | None = None,
) -> list[Row]:
    """The rows of a pseudo-log-likelihood (Salazar et al. 2020): one per target, which is masked and predicted.

    `around` are the ids before the context and after the targets. Rows longer than `limit` lose the left of their context.
    With `starts_V`, which ids begin a word, the rest of the target's word is masked too (Kauf & Ivanova 2023).

    Raises:
      ValueError: the targets do not fit into `limit`.
    """
    before, after = around
    room = limit - len(before) - len(after)
    check_length(targets, room)
    dropped = max(0, len(context) + len(targets) - room)
    ids = [*before, *context[dropped:], *targets, *after]
    stop = len(ids) - len(after)
    first = stop - len(targets)

    def hide(i: int) -> list[int]:
        """The ids with the target at i masked."""
        end = i + 1
        while starts_V is not None and end < stop and not starts_V[ids[end]]:
            end += 1
        return [*ids[:i], *[mask] * (end - i), *ids[end:]]

    return [Row({"encoder": hide(i)}, [i], [ids[i]], dropped=dropped * (i == first)) for i in range(first, stop)]


def check_length(targets: Sequence[int], limit: int) -> None:
    """Raises ValueError if there are more targets than `limit`."""
    if len(targets) > limit:
        raise ValueError(
            f"{len(targets)} tokens to score do not fit into the {limit} that the model reads; score a shorter text, or raise "
            "max_length if the model can read more"
        )


def rolling_windows(
    ids: Sequence[int], first: Sequence[int], length: int, overlap: int = 1
) -> Iterator[tuple[Sequence[int], Sequence[int]]]:
    """Yields (context, targets) such that every id of a document is a target once; the first context is `first`.

    The later contexts are the `overlap` ids before the targets, or more in the last window, such that a causal model reads
    `length` ids to predict them: lm-evaluation-harness's `get_rolling_token_windows` with context_len=overlap, then
    `make_disjoint_window`.

    Raises:
      ValueError: `overlap` is not in 1 .. length.
    """
    check_overlap(overlap, length)
    end = min(length, len(ids))
    if ids:
        yield first, ids[:end]
    while end < len(ids):
        begin, end = end, min(end + length - overlap + 1, len(ids))
        yield ids[end - length - 1 : begin], ids[begin:end]


def check_overlap(overlap: int, length: int) -> None:
    """Raises ValueError if windows of `length` ids cannot have this overlap."""
    if not 1 <= overlap <= length:
        raise ValueError(f"overlap={overlap} must be 1 or more and at most the length of a window, {length}")

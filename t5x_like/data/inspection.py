"""Prints training rows: tokens as text, with visible segments, masks, prefixes and loss weights."""

import itertools
from collections.abc import Iterator, Mapping

import numpy as np
from rich.console import Console
from rich.text import Text

from t5x_like.types import Rows, Vocabulary

SEGMENTS = ("on grey15", "on grey27")  # alternating
LEGEND = "[segment]  ‹no loss›  «read bidirectionally»  special tokens as <name>"


def print_rows(rows: Rows, count: int, seed: int = 0, console: Console | None = None) -> None:
    """Prints the first `count` rows of an epoch, in the order of the cache."""
    console = Console(soft_wrap=True, highlight=False) if console is None else console
    console.print(Text(LEGEND, "dim"))
    index_n = np.arange(min(count, len(rows)))
    batch = rows.fetch(index_n, np.zeros_like(index_n), seed)
    tasks = list(getattr(rows, "parts", ()))
    for row in index_n:
        arrays = {name: x[row] for name, x in batch.items()}
        task = f"  {tasks[arrays['task_one_hot'].argmax()]}" if "task_one_hot" in arrays else ""
        console.rule(f"row {row}{task}", style="dim", align="left")
        for title, text in format_sides(arrays, rows.vocabulary):
            console.print(Text(title, "bold cyan"))
            console.print(text)
    if len(index_n) < count:
        console.print(f"the first documents have only {len(index_n)} rows")


def format_sides(row: Mapping[str, np.ndarray], vocabulary: Vocabulary) -> Iterator[tuple[str, Text]]:
    """Yields (title, text) of the inputs and targets of a row."""
    for side in ("encoder", "decoder"):
        if f"{side}_segment_ids" not in row:
            continue
        segments, inputs = row[f"{side}_segment_ids"], row[f"{side}_input_tokens"]
        weights, targets = row.get(f"{side}_loss_weights"), row.get(f"{side}_target_tokens")
        counts = f"{segments.max()} segments, {np.count_nonzero(segments)} of {len(segments)} positions"
        if weights is not None:
            counts += f", {np.count_nonzero(weights)} with loss"
        # A decoder's inputs are its targets, shifted: print them once.
        if targets is None or side == "encoder":
            yield f"{side} inputs ({counts})", format_tokens(inputs, segments, vocabulary)
        if targets is not None:
            prefix = row.get(f"{side}_prefix")
            yield f"{side} targets ({counts})", format_tokens(targets, segments, vocabulary, weights, prefix)


def format_tokens(
    tokens: np.ndarray,
    segments: np.ndarray,
    vocabulary: Vocabulary,
    weights: np.ndarray | None = None,
    prefix: np.ndarray | None = None,
) -> Text:
    """Tokens [L] as text, with the marks of LEGEND around runs of tokens of one kind."""
    text = Text()
    weighted = np.ones(len(tokens), bool) if weights is None else np.asarray(weights) > 0
    # The prefix marks inputs; the target one position earlier is the same token.
    bidirectional = np.zeros(len(tokens), bool) if prefix is None else np.append(np.asarray(prefix)[1:] > 0, False)
    real = np.flatnonzero(segments)
    kinds = [
        (int(segments[i]), bool(weighted[i]), bool(bidirectional[i]), is_special(vocabulary, int(tokens[i])))
        for i in real
    ]
    current = 0
    for (segment, has_loss, both_ways, special), run in itertools.groupby(range(len(real)), key=kinds.__getitem__):
        if segment != current:
            text.append("] [" if current else "[", "bold yellow")
            current = segment
        ids = [int(tokens[real[i]]) for i in run]
        piece = "".join(f"<{special_name(vocabulary, i)}>" for i in ids) if special else decode(vocabulary, ids)
        piece = piece if has_loss else f"‹{piece}›"
        piece = f"«{piece}»" if both_ways else piece
        style = SEGMENTS[segment % 2] + (" bold magenta" if special else "") + ("" if has_loss else " dim")
        text.append(piece, style + (" underline" if both_ways else ""))
    return text.append("]", "bold yellow") if current else text.append("(nothing)", "dim")


def is_special(vocabulary: Vocabulary, index: int) -> bool:
    """Whether an id has no text."""
    sizes = vocabulary.bytes_per_token_V
    return index >= len(sizes) or sizes[index] == 0


def special_name(vocabulary: Vocabulary, index: int) -> str:
    """The name of a special token; a sentinel's is its number."""
    sentinel = vocabulary.first_sentinel - index
    if 0 <= sentinel < vocabulary.extra_ids:
        return f"{sentinel}"
    try:
        return vocabulary.token(index).strip("<>")
    except (IndexError, ValueError):
        return str(index)


def decode(vocabulary: Vocabulary, ids: list[int]) -> str:
    """The text of a run of ids, with visible line ends."""
    return vocabulary.decode(ids).replace("\n", "⏎\n")

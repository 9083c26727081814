"""Rows of a batch for the eye: tokens as text, with segments, masks, prefixes and what counts in the loss visible."""

import argparse
import itertools
import os
from collections.abc import Iterator, Mapping

import numpy as np
from rich.console import Console
from rich.text import Text

from t5x_like.cli.gin import runtime

SEGMENTS = ("on grey15", "on grey27")  # turn by turn
LEGEND = "[segment]  ‹not counted in the loss›  «read bidirectionally»  special tokens as <name>"


def inspect(args: argparse.Namespace, split: str = "train_rows") -> None:
    """Prints the first `args.inspect` rows that the configuration makes of its tasks' first documents; nothing is kept."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's notes are of no use here
    files = [*args.gin_file, "runs/inspect.gin"]
    paths = [path for path in args.gin_search_paths.split(",") if path]
    config = runtime.parse(files, args.gin_overrides, paths)
    show(config.evaluate(f"trainer.train.{split}"), args.inspect)


def show(rows, count: int, seed: int = 0, console: Console | None = None) -> None:
    """Prints the first `count` rows of an epoch, in the order of the cache."""
    console = Console(soft_wrap=True, highlight=False) if console is None else console
    console.print(Text(LEGEND, "dim"))
    index_n = np.arange(min(count, len(rows)))
    batch = rows.fetch(index_n, np.zeros_like(index_n), seed)
    tasks = list(getattr(rows, "parts", ()))
    for row in index_n:
        one = {name: x[row] for name, x in batch.items()}
        task = f"  {tasks[one['task_one_hot'].argmax()]}" if "task_one_hot" in one else ""
        console.rule(f"row {row}{task}", style="dim", align="left")
        for title, text in sides(one, rows.vocabulary):
            console.print(Text(title, "bold cyan"))
            console.print(text)
    if len(index_n) < count:
        console.print(f"these are all rows of the first documents: {len(index_n)}")


def sides(row: Mapping[str, np.ndarray], vocabulary) -> Iterator[tuple[str, Text]]:
    """(title, text) of what a row's sides read and are to predict."""
    for side in ("encoder", "decoder"):
        if f"{side}_segment_ids" not in row:
            continue
        segments, inputs = row[f"{side}_segment_ids"], row[f"{side}_input_tokens"]
        weights, targets = row.get(f"{side}_loss_weights"), row.get(f"{side}_target_tokens")
        about = f"{segments.max()} segments, {np.count_nonzero(segments)} of {len(segments)} positions"
        if weights is not None:
            about += f", {np.count_nonzero(weights)} count"
        # A decoder reads its targets shifted: they are shown once.
        if targets is None or side == "encoder":
            yield f"{side} inputs ({about})", line(inputs, segments, vocabulary)
        if targets is not None:
            prefix = row.get(f"{side}_prefix")
            yield f"{side} targets ({about})", line(targets, segments, vocabulary, weights, prefix)


def line(tokens, segments, vocabulary, weights=None, prefix=None) -> Text:
    """Tokens as text, runs of one kind together: with marks that are there without colours too."""
    text = Text()
    counted = np.ones(len(tokens), bool) if weights is None else np.asarray(weights) > 0
    # An input is shown bidirectionally; the target before it is the token it stands for.
    shown = np.zeros(len(tokens), bool) if prefix is None else np.append(np.asarray(prefix)[1:] > 0, False)
    real = np.flatnonzero(segments)
    kinds = [(int(segments[i]), bool(counted[i]), bool(shown[i]), is_special(vocabulary, int(tokens[i]))) for i in real]
    current = 0
    for (segment, counts, both, special), run in itertools.groupby(range(len(real)), key=kinds.__getitem__):
        if segment != current:
            text.append("] [" if current else "[", "bold yellow")
            current = segment
        ids = [int(tokens[real[i]]) for i in run]
        piece = "".join(f"<{name(vocabulary, i)}>" for i in ids) if special else decoded(vocabulary, ids)
        piece = piece if counts else f"‹{piece}›"
        piece = f"«{piece}»" if both else piece
        style = SEGMENTS[segment % 2] + (" bold magenta" if special else "") + ("" if counts else " dim")
        text.append(piece, style + (" underline" if both else ""))
    return text.append("]", "bold yellow") if current else text.append("(nothing)", "dim")


def is_special(vocabulary, index: int) -> bool:
    """Whether an id stands for no text."""
    sizes = vocabulary.bytes_per_token_V
    return index >= len(sizes) or sizes[index] == 0


def name(vocabulary, index: int) -> str:
    """What a special token is called: sentinels by their number."""
    sentinel = vocabulary.first_sentinel - index
    if 0 <= sentinel < vocabulary.extra_ids:
        return f"{sentinel}"
    try:
        return vocabulary.token(index).strip("<>")
    except (IndexError, ValueError):
        return str(index)


def decoded(vocabulary, ids: list[int]) -> str:
    """The text of a run of ids, line ends made visible."""
    return vocabulary.decode(ids).replace("\n", "⏎\n")

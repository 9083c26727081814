"""The data of a resumed run: what changed since its checkpoint, and the next row that it has not read."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from t5x_like.data.stream import ORDER, Stream
from t5x_like.types import PathLike

# Arguments that a user sets. The other entries of `describe` also change when one of these does.
ARGUMENTS = ("task", "tokenizer", "lengths", "batch_size", "seed")
BEFORE = "earlier batches"


def describe(stream: Stream) -> dict[str, Any]:
    """The metadata of a checkpoint about its data: the stream's fingerprint, and what it is made from, by name."""
    rows, caches = stream.rows, getattr(stream.rows, "caches", ())
    parts = {
        "task": ", ".join(dict.fromkeys(f"{cache.task}/{cache.split}" for cache in caches)),
        "tokenizer": rows.vocabulary.fingerprint,
        "lengths": ", ".join(f"{side} {length}" for side, length in rows.lengths.items()),
        "batch_size": stream.batch_size,
        "seed": stream.seed,
        "token caches": ", ".join(cache.manifest["fingerprint"] for cache in caches),
        "rows": rows.fingerprint,
        "order": ORDER,
        BEFORE: [stream.batches_before, stream.rows_before],
    }
    return {"data": stream.fingerprint, "stream": parts}


def check(
    stored: Mapping[str, Any], current: Mapping[str, Any], directory: PathLike, may_differ: Sequence[str]
) -> None:
    """Checks that the data of a checkpoint is that of the run, apart from what `may_differ`; both are from `describe`.

    Raises:
      ValueError: it is not; the message has the old and the new value of what changed.
    """
    if "stream" not in stored:
        old = {"data": stored.get("data")}
        new = {"data": current["data"]}
    else:
        old, new = stored["stream"], current["stream"]
    changed = [name for name in new if old.get(name) != new[name] and name not in may_differ]
    changed = [name for name in changed if name in ARGUMENTS] or changed
    if changed:
        values = "; ".join(f"{name} was {old.get(name)!r}, now {new[name]!r}" for name in changed)
        raise ValueError(
            f"the checkpoints in {directory} were trained on other data: {values}. {remedy(changed)}, or use another run_dir and "
            "start from these parameters with trainer.train.initialize_from"
        )


def remedy(changed: Sequence[str]) -> str:
    """What a user can do so that the run goes on."""
    if changed == ["batch_size"]:
        return "Set it back (trainer.train.change_batch_size=True continues with it)"
    if "token caches" in changed:
        return (
            "The task's files, its code or the version of a library changed: restore them, or read the old cache, if it is kept, "
            "with train/token_cache.TokenCache.fingerprint='...'"
        )
    return "Set it back (config.gin in the run directory has the old values)"


def continue_stream(stream: Stream, stored: Mapping[str, Any], next_batch: int) -> Stream:
    """The stream that goes on at batch `next_batch` with the row after those that the run of a checkpoint has read."""
    parts = stored.get("stream", {})
    before = dict(zip(("batches_before", "rows_before"), parts.get(BEFORE, (0, 0)), strict=True))
    earlier = dataclasses.replace(stream, batch_size=parts.get("batch_size", stream.batch_size), **before)
    if earlier.batch_size == stream.batch_size:
        return earlier
    return dataclasses.replace(stream, batches_before=next_batch, rows_before=earlier.first_row(next_batch))

"""Writes token caches, whatever their documents come from."""

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from t5x_like.data.cache import checks as cache_checks
from t5x_like.data.cache import journal, token_cache
from t5x_like.data.cache.journal import Place, Writer
from t5x_like.data.cache.tokenizing import BadDocument, id_type, joined
from t5x_like.types import Vocabulary

TOGETHER = 1024  # documents that are written at once


def write(
    folder: Path,
    task: str,
    split: str,
    inputs: dict,
    vocabulary: Vocabulary,
    features: Sequence[str],
    examples: Iterable[Mapping[str, Any]],
    evaluation: Mapping[str, Any] | None = None,
) -> None:
    """Fills `folder` with a split whose examples hold the ids of every feature; the manifest comes last.

    `inputs` is everything the cache depends on (see `token_cache`); their hash is its fingerprint. With `evaluation`
    ({"metrics", "postprocess"}) the other fields of the examples are kept too.

    Raises:
      ValueError: an id outside the vocabulary, by document and feature, or no example.
    """
    writer = open_writer(folder, features, vocabulary, evaluation)
    coming = iter(examples)
    while some := list(itertools.islice(coming, TOGETHER)):
        try:
            tokens = {name: joined(name, [np.asarray(x[name]) for x in some], vocabulary) for name in features}
        except BadDocument as error:
            raise error.at(writer.documents) from None
        lines = [example_line({k: v for k, v in x.items() if k not in tokens}) for x in some] if evaluation else []
        writer.append(tokens, b"".join(lines), Place())
    finish(writer, task, split, inputs, vocabulary, evaluation)


def open_writer(folder: Path, features: Sequence[str], vocabulary: Vocabulary, evaluation) -> Writer:
    """A writer of a vocabulary's ids, going on where one stopped."""
    types = {name: id_type(name, vocabulary.vocab_size) for name in features}
    return Writer(folder, types, examples=bool(evaluation))


def finish(
    writer: Writer, task: str, split: str, inputs: dict, vocabulary: Vocabulary, evaluation: Mapping[str, Any] | None
) -> None:
    """Writes what belongs to the documents that a writer has: vocabulary and manifest, which is the same for the same inputs.

    Raises:
      ValueError: there is no document.
    """
    writer.close()
    dropped = dict(sorted(writer.place.dropped.items()))
    if writer.documents == 0:
        counted = f", {dropped} were dropped" if dropped else ""
        raise ValueError(f"task {task!r} has no example in split {split!r}{counted}; look at its source and its steps")
    folder = writer.folder
    with journal.naming_full_disk(folder):
        vocabulary.save(folder / "vocabulary")
        manifest = {
            "fingerprint": token_cache.fingerprint_of(inputs),
            "inputs": inputs,
            "task": task,
            "split": split,
            "documents": writer.documents,
            "vocab_size": vocabulary.vocab_size,
            "features": writer.described(),
            "dropped": dropped,
            **(evaluation or {}),
            "files": {
                path.relative_to(folder).as_posix(): cache_checks.described(path)
                for path in sorted(folder.rglob("*"))
                if path.is_file() and path.name not in (journal.JOURNAL, token_cache.MANIFEST)
            },
        }
        last = journal.Growing(folder / token_cache.MANIFEST, 0)
        last.write((json.dumps(manifest, indent=1) + "\n").encode())
        last.sync()
        last.file.close()
    (folder / journal.JOURNAL).unlink(missing_ok=True)


def example_line(fields: Mapping[str, Any]) -> bytes:
    """A document's fields as a line of JSON."""
    plain = {name: as_plain(value) for name, value in fields.items()}
    return (json.dumps(plain, sort_keys=True, ensure_ascii=False) + "\n").encode("utf-8", errors="replace")


def as_plain(value: Any) -> Any:
    """Arrays as lists, bytes as text."""
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    if isinstance(value, np.ndarray | np.generic):
        return as_plain(value.tolist())
    if isinstance(value, list | tuple):
        return [as_plain(one) for one in value]
    return as_plain(value.to_list()) if hasattr(value, "to_list") else value

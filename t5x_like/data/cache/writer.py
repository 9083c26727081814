"""Writes token caches from documents of any origin."""

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from t5x_like.data.cache import checks as cache_checks
from t5x_like.data.cache import journal, token_cache
from t5x_like.data.cache.journal import CacheWriter, Place
from t5x_like.data.cache.tokenizing import BadDocument, id_type, join_documents
from t5x_like.types import Vocabulary

DOCUMENTS_PER_WRITE = 1024


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
    """Writes a split into `folder`; each example holds the ids of every feature. The manifest is written last.

    `inputs` is everything the cache depends on (see `token_cache`); its hash is the fingerprint. With `evaluation`
    ({"metrics", "postprocess"}) the other fields of the examples are written too.

    Raises:
      ValueError: an id is outside the vocabulary (the message names document and feature), or there is no example.
      OSError: the disk is full.
    """
    writer = open_writer(folder, features, vocabulary, evaluation)
    iterator = iter(examples)
    while batch := list(itertools.islice(iterator, DOCUMENTS_PER_WRITE)):
        try:
            tokens = {name: join_documents(name, [np.asarray(x[name]) for x in batch], vocabulary) for name in features}
        except BadDocument as error:
            raise error.with_offset(writer.documents) from None
        lines = [to_json_line({k: v for k, v in x.items() if k not in tokens}) for x in batch] if evaluation else []
        writer.append(tokens, b"".join(lines), Place())
    finish(writer, task, split, inputs, vocabulary, evaluation)


def open_writer(
    folder: Path, features: Sequence[str], vocabulary: Vocabulary, evaluation: Mapping[str, Any] | None
) -> CacheWriter:
    """A writer of features in the vocabulary's ids; it resumes an interrupted build in `folder`."""
    dtypes = {name: id_type(name, vocabulary.vocab_size) for name in features}
    return CacheWriter(folder, dtypes, examples=bool(evaluation))


def finish(
    writer: CacheWriter,
    task: str,
    split: str,
    inputs: dict,
    vocabulary: Vocabulary,
    evaluation: Mapping[str, Any] | None,
) -> None:
    """Closes the writer, and writes the vocabulary and the manifest, which is the same for the same inputs.

    Raises:
      ValueError: there is no document.
      OSError: the disk is full.
    """
    writer.close()
    dropped = dict(sorted(writer.place.dropped.items()))
    if writer.documents == 0:
        counts = f", {dropped} were dropped" if dropped else ""
        raise ValueError(
            f"task {task!r} has no example in split {split!r}{counts}; check its source and its preprocessors"
        )
    folder = writer.folder
    with journal.explain_full_disk(folder):
        vocabulary.save(folder / "vocabulary")
        manifest = {
            "fingerprint": token_cache.fingerprint_of(inputs),
            "inputs": inputs,
            "task": task,
            "split": split,
            "documents": writer.documents,
            "vocab_size": vocabulary.vocab_size,
            "features": writer.describe_features(),
            "dropped": dropped,
            **(evaluation or {}),
            "files": {
                path.relative_to(folder).as_posix(): cache_checks.describe_file(path)
                for path in sorted(folder.rglob("*"))
                if path.is_file() and path.name not in (journal.JOURNAL, token_cache.MANIFEST, token_cache.REJECTS)
            },
        }
        file = journal.AppendOnlyFile(folder / token_cache.MANIFEST, 0)
        file.write((json.dumps(manifest, indent=1) + "\n").encode())
        file.sync()
        file.file.close()
    (folder / journal.JOURNAL).unlink(missing_ok=True)


def to_json_line(fields: Mapping[str, Any]) -> bytes:
    """A document's fields as a line of JSON."""
    values = {name: to_json_value(value) for name, value in fields.items()}
    return (json.dumps(values, sort_keys=True, ensure_ascii=False) + "\n").encode("utf-8", errors="replace")


def to_json_value(value: Any) -> Any:
    """A value with arrays as lists and bytes as text."""
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    if isinstance(value, np.ndarray | np.generic):
        return to_json_value(value.tolist())
    if isinstance(value, list | tuple):
        return [to_json_value(item) for item in value]
    return to_json_value(value.to_list()) if hasattr(value, "to_list") else value

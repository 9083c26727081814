"""A task over the user's files, configured in gin: see gin_configs/tasks/files.gin."""

import os
from collections.abc import Mapping, Sequence

from t5x_like.cleaning import reading
from t5x_like.tasks import text_tasks
from t5x_like.tasks.sources.files import FileSource
from t5x_like.tasks.sources.patterns import match_files

Patterns = str | Sequence[str]


def define(
    name: str,
    train: Patterns,
    validation: Patterns | None = None,
    text: str | None = None,
    inputs: str | None = None,
    targets: str | None = None,
    vocabulary: str = "bytes",
    validation_one_in: int = 20,
    columns: Sequence[str] = (),
    whole_files: bool = False,
    max_bytes: int = reading.MAX_BYTES,
    strict: bool = False,
    metrics: str | Sequence[str] = (),
) -> None:
    """Registers a task over files.

    Args:
      name: the task's name.
      train: paths or globs of the training files.
      validation: the same for validation; None holds out 1 in `validation_one_in` documents of `train`, by hash of text.
      text: the field to train on, "text" by default; or give `inputs` and `targets`.
      inputs: the field of the inputs.
      targets: the field of the targets.
      vocabulary: bytes, sp, a tokenizer folder or a SentencePiece .model file.
      validation_one_in: see `validation`.
      columns: see `FileSource`; so are `whole_files`, `max_bytes` and `strict`.
      metrics: names of metrics of `text_metrics`, for answers to the inputs.

    Raises:
      ValueError: a pattern matches no file, a file is in both splits, or a field or the vocabulary does not exist.
    """
    fields = text_tasks.make_fields(text, inputs, targets)
    split_filter = None if validation else text_tasks.make_split_filter(fields, validation_one_in)
    patterns = {"train": train, "validation": validation or train}
    source = FileSource(patterns, fields, columns, whole_files, max_bytes, strict, split_filter)
    if validation:
        check_disjoint(source.patterns, train, validation)
    text_tasks.check_and_register(name, source, fields, vocabulary, metrics)


def check_disjoint(patterns: Mapping[str, Sequence[str]], train: Patterns, validation: Patterns) -> None:
    """Checks that no file is in both splits.

    Raises:
      ValueError: one is.
    """
    files = [{os.path.realpath(path) for path in match_files(split, patterns[split])} for split in patterns]
    if both := sorted(files[0] & files[1]):
        raise ValueError(
            f"train={train!r} and validation={validation!r} both name {', '.join(both[:3])}; give other files, or no "
            "validation to hold out a share of train"
        )

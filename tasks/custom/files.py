"""A task over the user's own files, made to order from gin: see gin_configs/tasks/files.gin."""

import os
from collections.abc import Sequence

from t5x_like.cleaning import reading
from t5x_like.tasks import text_tasks
from t5x_like.tasks.sources.files import FileSource, matching

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
) -> None:
    """Registers a task over files: `text` is the field to learn from, or `inputs` and `targets`.

    Without `validation`, one in `validation_one_in` documents of the train files validates, by the hash of its text.
    `vocabulary` is bytes, sp, a tokenizer's folder or a .model file; the others are those of `sources.FileSource`.

    Raises:
      ValueError: patterns that match nothing or the same file twice, a field or vocabulary that is not there.
    """
    fields = text_tasks.fields_of(text, inputs, targets)
    belongs = None if validation else text_tasks.held_out(fields, validation_one_in)
    patterns = {"train": train, "validation": validation or train}
    source = FileSource(patterns, fields, columns, whole_files, max_bytes, strict, belongs)
    if validation:
        files = [{os.path.realpath(path) for path in matching(split, source.patterns[split])} for split in patterns]
        if both := sorted(files[0] & files[1]):
            raise ValueError(
                f"train={train!r} and validation={validation!r} both name {', '.join(both[:3])}; give other files, or no "
                "validation, and a share of train is held out"
            )
    text_tasks.register_checked(name, source, fields, vocabulary)

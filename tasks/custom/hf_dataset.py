"""A task over a folder of Hugging Face's `datasets`, configured in gin: see gin_configs/tasks/hf_dataset.gin."""

from collections.abc import Sequence

from t5x_like.tasks import text_tasks
from t5x_like.tasks.sources import arrow
from t5x_like.tasks.sources.files import FileSource, RecordSource


def define(
    name: str,
    folder: str,
    train: str = "train",
    validation: str | None = None,
    text: str | None = None,
    inputs: str | None = None,
    targets: str | None = None,
    vocabulary: str = "bytes",
    validation_one_in: int = 20,
    strict: bool = False,
    metrics: str | Sequence[str] = (),
) -> None:
    """Registers a task over a folder that save_to_disk wrote, or over data files as on the Hub.

    Args:
      name: the task's name.
      folder: the folder, or that of the data files (data/train-00000-of-00001.parquet).
      train: the training split.
      validation: the validation split; None takes the split "validation", or if absent holds out 1 in
        `validation_one_in` documents of `train`, by hash of text.
      text: as in `files.define`; so are the other arguments.

    Raises:
      ValueError: the folder, a split, a field or the vocabulary does not exist.
    """
    fields = text_tasks.make_fields(text, inputs, targets)
    files = None if arrow.is_saved(folder) else arrow.find_splits_by_name(folder)
    names = list(arrow.find_saved_splits(folder) if files is None else files)
    for argument, split in (("train", train), ("validation", validation)):
        if split is not None and split not in names:
            raise ValueError(f"{argument}={split!r}: folder={folder} has the splits {', '.join(names)}")
    if validation == train:
        raise ValueError(
            f"train={train!r} and validation={validation!r} are the same split; name two, or no validation"
        )
    if validation is None and "validation" in names and train != "validation":
        validation = "validation"
    splits = {"train": train, "validation": validation or train}
    split_filter = None if validation else text_tasks.make_split_filter(fields, validation_one_in)
    source: RecordSource
    if files is None:
        source = arrow.ArrowSource(folder, fields, strict, split_filter, splits)
    else:
        patterns = {split: files[folder_split] for split, folder_split in splits.items()}
        source = FileSource(patterns, fields, strict=strict, split_filter=split_filter)
    text_tasks.check_and_register(name, source, fields, vocabulary, metrics)

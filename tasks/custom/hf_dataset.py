"""A task over a folder of Hugging Face's `datasets`, made to order from gin: see gin_configs/tasks/hf_dataset.gin."""

from t5x_like.tasks import text_tasks
from t5x_like.tasks.sources import arrow
from t5x_like.tasks.sources.files import FileSource


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
) -> None:
    """Registers a task over what save_to_disk wrote, or over files as the Hub has them (data/train-00000-of-00001.parquet).

    `validation` is the folder's split of that name where none is named; where there is none, one in `validation_one_in`
    documents of `train`, by the hash of its text. The others are those of `files.define`.

    Raises:
      ValueError: no such folder, split, field or vocabulary.
    """
    fields = text_tasks.fields_of(text, inputs, targets)
    saved = arrow.is_saved(folder)
    found = arrow.saved_splits(folder) if saved else arrow.splits_by_name(folder)
    for argument, split in (("train", train), ("validation", validation)):
        if split is not None and split not in found:
            raise ValueError(f"{argument}={split!r}: folder={folder} has the splits {', '.join(found)}")
    if validation == train:
        raise ValueError(
            f"train={train!r} and validation={validation!r} are the same split; name two, or no validation"
        )
    own = validation or ("validation" if "validation" in found and train != "validation" else None)
    splits = {"train": train, "validation": own or train}
    belongs = None if own else text_tasks.held_out(fields, validation_one_in)
    if saved:
        source = arrow.ArrowSource(folder, fields, strict, belongs, splits)
    else:
        patterns = {split: found[named] for split, named in splits.items()}
        source = FileSource(patterns, fields, strict=strict, belongs=belongs)
    text_tasks.register_checked(name, source, fields, vocabulary)

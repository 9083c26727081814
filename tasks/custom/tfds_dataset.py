"""A task over a dataset of TensorFlow Datasets, made to order from gin: see gin_configs/tasks/tfds.gin."""

from t5x_like.tasks import text_tasks
from t5x_like.tasks.sources.tfds import TfdsSource


def define(
    name: str,
    tfds_name: str,
    data_dir: str | None = None,
    train: str = "train",
    validation: str | None = None,
    text: str | None = None,
    inputs: str | None = None,
    targets: str | None = None,
    vocabulary: str = "bytes",
    validation_one_in: int = 20,
    download: bool = False,
) -> None:
    """Registers a task over a prepared TFDS dataset; `train` and `validation` are splits or slices (train[5%:]).

    `validation` is the dataset's split of that name where none is named; where there is none, the first of every
    `validation_one_in` parts of `train`. The others are those of `files.define` and `sources_tfds.TfdsSource`.

    Raises:
      ValueError: a dataset that is not prepared, no such split, field or vocabulary.
    """
    fields = text_tasks.fields_of(text, inputs, targets)
    has = TfdsSource(tfds_name, data_dir=data_dir, download=download)
    if validation is None and "validation" in has.splits and train != "validation":
        validation = "validation"
    if validation is None:
        train, validation = parts_of(has, train, validation_one_in)
    splits = {"train": train, "validation": validation}
    text_tasks.register_checked(name, TfdsSource(tfds_name, fields, splits, data_dir, download), fields, vocabulary)


def parts_of(source: TfdsSource, split: str, one_in: int) -> tuple[str, str]:
    """(train, validation) slices of one split.

    Raises:
      ValueError: a split that is a slice already, or too small.
    """
    if "[" in split or "+" in split:
        raise ValueError(f"train={split!r} is a slice; name the validation split too, such as train[:5%]")
    count = source.num_input_examples(split) // max(one_in, 1)
    if one_in < 2 or not count:
        raise ValueError(
            f"validation_one_in={one_in} of the {source.num_input_examples(split)} examples in {split!r} leaves one "
            "split empty; give another number, or name the validation split"
        )
    return f"{split}[{count}:]", f"{split}[:{count}]"

"""A task over a dataset of TensorFlow Datasets, configured in gin: see gin_configs/tasks/tfds.gin."""

from collections.abc import Sequence

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
    metrics: str | Sequence[str] = (),
) -> None:
    """Registers a task over a prepared TFDS dataset.

    Args:
      name: the task's name.
      tfds_name: see `TfdsSource`; so are `data_dir` and `download`.
      train: the training split or slice (train[5%:]).
      validation: the validation split or slice; None takes the split "validation", or if absent the first of
        `validation_one_in` equal parts of `train`.
      text: as in `files.define`; so are the other arguments.

    Raises:
      ValueError: the dataset is not prepared, or a split, a field or the vocabulary does not exist.
    """
    fields = text_tasks.make_fields(text, inputs, targets)
    dataset = TfdsSource(tfds_name, data_dir=data_dir, download=download)
    if validation is None and "validation" in dataset.splits and train != "validation":
        validation = "validation"
    if validation is None:
        train, validation = slice_split(dataset, train, validation_one_in)
    splits = {"train": train, "validation": validation}
    source = TfdsSource(tfds_name, fields, splits, data_dir, download)
    text_tasks.check_and_register(name, source, fields, vocabulary, metrics)


def slice_split(source: TfdsSource, split: str, one_in: int) -> tuple[str, str]:
    """Returns (train, validation) slices of a split.

    Raises:
      ValueError: the split is already a slice, or too small.
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

"""Reads the texts of a task before tokenization, to train or evaluate a tokenizer."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import seqio

from t5x_like.tasks.caching import task_inputs

TOKENIZE = (seqio.preprocessors.tokenize, seqio.preprocessors.tokenize_and_append_eos)


def read_texts(name: str, split: str, module: str) -> Iterator[str]:
    """The texts of a split, in the source's order; bytes that are not UTF-8 become U+FFFD.

    These are the task's features before `seqio.preprocessors.tokenize`; for a task without that step, all strings of the
    source's examples.

    Raises:
      ValueError: unknown task or split, or a task without strings.
    """
    task = task_inputs.find_task(name, module)
    if split not in task.splits:
        raise ValueError(f"task {name!r} has no split {split!r}; it has {', '.join(task.splits)}")
    dataset, steps = task.source.get_dataset(split=split, shuffle=False), list(task.preprocessors)
    places = [place for place, step in enumerate(steps) if unwrap_partial(step) in TOKENIZE]
    with seqio.utils.map_seed_manager(0):
        for step in steps[: places[0]] if places else ():
            transform = seqio.utils.add_kwargs_to_transform(
                step, sequence_length=None, output_features=task.output_features
            )
            dataset = transform(dataset)
    strings = [field for field, spec in dataset.element_spec.items() if spec.dtype == "string"]
    fields = [field for field in strings if field in task.output_features] if places else strings
    if not fields:
        raise ValueError(f"task {name!r} has no text before its tokenizer, only {', '.join(dataset.element_spec)}")
    return (
        text for example in dataset.as_numpy_iterator() for field in fields for text in decode_field(example[field])
    )


def unwrap_partial(step: Callable) -> Callable:
    """The function of a step, which may be a functools.partial."""
    return step.func if isinstance(step, functools.partial) else step


def decode_field(value: bytes | np.ndarray) -> list[str]:
    """The texts of a field, which is one string or an array of them."""
    strings: list[Any] = [value] if isinstance(value, bytes) else value.ravel().tolist()
    return [string.decode("utf-8", "replace") for string in strings]

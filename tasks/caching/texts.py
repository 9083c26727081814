"""The texts of a task as its tokenizer would read them: what a tokenizer is trained on, or judged by."""

import functools
from collections.abc import Iterator

import seqio

from t5x_like.tasks.caching import task_inputs

TOKENIZE = (seqio.preprocessors.tokenize, seqio.preprocessors.tokenize_and_append_eos)


def texts(name: str, split: str, module: str) -> Iterator[str]:
    """The texts of a split, in the source's order; bytes that are no UTF-8 as U+FFFD.

    They are the task's features right before `seqio.preprocessors.tokenize`; of a task without that step, every string of the
    source's examples.

    Raises:
      ValueError: unknown task or split, or a task that holds no string.
    """
    task = task_inputs.find_task(name, module)
    if split not in task.splits:
        raise ValueError(f"task {name!r} has no split {split!r}; it has {', '.join(task.splits)}")
    dataset, steps = task.source.get_dataset(split=split, shuffle=False), list(task.preprocessors)
    places = [place for place, step in enumerate(steps) if function(step) in TOKENIZE]
    with seqio.utils.map_seed_manager(0):
        for step in steps[: places[0]] if places else ():
            made = seqio.utils.add_kwargs_to_transform(step, sequence_length=None, output_features=task.output_features)
            dataset = made(dataset)
    strings = [field for field, spec in dataset.element_spec.items() if spec.dtype == "string"]
    fields = [field for field in strings if field in task.output_features] if places else strings
    if not fields:
        raise ValueError(f"task {name!r} has no text before its tokenizer, only {', '.join(dataset.element_spec)}")
    return (text for example in dataset.as_numpy_iterator() for field in fields for text in decoded(example[field]))


def function(step):
    """The function of a step, which may be a functools.partial."""
    return step.func if isinstance(step, functools.partial) else step


def decoded(value) -> list[str]:
    """The texts of a field, which may be a list of them."""
    values = [value] if isinstance(value, bytes) else value.ravel().tolist()
    return [each.decode("utf-8", "replace") for each in values]

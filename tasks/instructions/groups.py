"""Groups of instruction tasks for training and for held-out evaluation. This module does not need seqio.

Held out are whole clusters of similar tasks, as in FLAN, and some list tasks: an operation that is trained on other kinds of
items, on a kind of item that other operations are trained on.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping

from t5x_like.prompting import renderings
from t5x_like.prompting.templates import Template, choose_templates, render
from t5x_like.tasks.synthetic import code_templates, lists, numbers, text, wiki
from t5x_like.tasks.synthetic.sampling import SyntheticTask

HELD_OUT_CLUSTERS = ("table", "comparison", "origin")
HELD_OUT_LIST_TASKS = (
    "last_of_numbers",
    "copy_of_letters",
    "contains_of_numbers",
    "after_of_letters",
    "count_of_letters",
    "repeated_of_words",
    "without_of_numbers",
)


def merge_tasks(*families: Callable[[], dict[str, SyntheticTask]]) -> dict[str, SyntheticTask]:
    """Returns the tasks of several families by name."""
    return {name: task for family in families for name, task in family().items()}


# A partial of functions, so that a token cache depends on the file of each family.
make_all_tasks = functools.partial(
    merge_tasks, lists.make_tasks, numbers.make_tasks, text.make_tasks, wiki.make_tasks, code_templates.make_tasks
)
ALL = make_all_tasks()
CODE = code_templates.make_tasks()
GENERATED = {name: task for name, task in ALL.items() if name not in CODE}


def is_held_out(name: str) -> bool:
    """Returns whether a task is held out from training."""
    return name in HELD_OUT_LIST_TASKS or ALL[name].cluster in HELD_OUT_CLUSTERS


# {group: names of its tasks}; held-out tasks are in no training group.
GROUPS = {
    "instruction_worlds": tuple(name for name in GENERATED if not is_held_out(name)),
    "instruction_code": tuple(name for name in CODE if not is_held_out(name)),
    "instruction_all": tuple(name for name in ALL if not is_held_out(name)),
    "instruction_worlds_held_out": tuple(name for name in GENERATED if is_held_out(name)),
    "instruction_all_held_out": tuple(name for name in ALL if is_held_out(name)),
}


def interleave(
    make_tasks: Callable[[], Mapping[str, SyntheticTask]], group: str, max_examples: int, split: str
) -> Iterator[dict]:
    """Yields {"task", "inputs", "targets"} of a group's tasks in turn, at most `max_examples` of each task."""
    tasks = make_tasks()
    streams = {name: itertools.islice(tasks[name].examples(split), max_examples) for name in GROUPS[group]}
    while streams:
        for name, stream in list(streams.items()):
            example = next(stream, None)
            if example is None:
                del streams[name]
            else:
                yield {"task": name, **render_example(name, tasks[name].templates, example)}


def render_example(task: str, templates: tuple[Template, ...], example: Mapping) -> dict[str, str]:
    """Returns {"inputs", "targets"} of an example by one of its task's templates, selected by hash."""
    (template,) = choose_templates(templates, task, 1, 0, renderings.example_key(example))
    rendered = render(template, example)
    return {"inputs": rendered["inputs"], "targets": rendered["targets"]}

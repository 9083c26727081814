"""Which offline tasks are trained on and which are held out, and all of a group as one stream; nothing here needs seqio.

Held out are whole clusters, as FLAN does, and cells of the table of list operations: an operation that is trained on other
kinds of items, on a kind that other operations are trained on.
"""

import functools
import itertools
from collections.abc import Callable, Iterator

from t5x_like.prompting import renderings
from t5x_like.prompting.templates import Template, chosen, render
from t5x_like.tasks.synthetic import code_wordings, lists, numbers, text, wiki
from t5x_like.tasks.synthetic.sampling import Offline

HELD_OUT_CLUSTERS = ("table", "comparison", "origin")
HELD_OUT_CELLS = (
    "last_of_numbers",
    "copy_of_letters",
    "contains_of_numbers",
    "after_of_letters",
    "count_of_letters",
    "repeated_of_words",
    "without_of_numbers",
)


def joined(*families: Callable[[], dict[str, Offline]]) -> dict[str, Offline]:
    """The tasks of several families by their names."""
    return {name: task for family in families for name, task in family().items()}


# A partial of functions, so that a token cache depends on the file of each family.
every = functools.partial(joined, lists.tasks, numbers.tasks, text.tasks, wiki.tasks, code_wordings.tasks)
ALL = every()
CODE = code_wordings.tasks()
WORLDS = {name: task for name, task in ALL.items() if name not in CODE}


def is_held_out(name: str) -> bool:
    return name in HELD_OUT_CELLS or ALL[name].cluster in HELD_OUT_CLUSTERS


# {group: names of its tasks}; those named held_out are never in another group.
GROUPS = {
    "instruction_worlds": tuple(name for name in WORLDS if not is_held_out(name)),
    "instruction_code": tuple(name for name in CODE if not is_held_out(name)),
    "instruction_all": tuple(name for name in ALL if not is_held_out(name)),
    "instruction_worlds_held_out": tuple(name for name in WORLDS if is_held_out(name)),
    "instruction_all_held_out": tuple(name for name in ALL if is_held_out(name)),
}


def together(tasks: Callable[[], dict[str, Offline]], group: str, cap: int, split: str) -> Iterator[dict]:
    """{"task", "inputs", "targets"}: the tasks of a group in turn, at most `cap` examples of each, worded by hash."""
    known = tasks()
    streams = {name: itertools.islice(known[name].examples(split), cap) for name in GROUPS[group]}
    while streams:
        for name, stream in list(streams.items()):
            example = next(stream, None)
            if example is None:
                del streams[name]
            else:
                yield {"task": name, **worded(name, known[name].templates, example)}


def worded(name: str, templates: tuple[Template, ...], example: dict) -> dict[str, str]:
    """An example by one of its task's templates, without choices."""
    (template,) = chosen(templates, name, 1, 0, renderings.key_of(example))
    made = render(template, example)
    return {"inputs": made["inputs"], "targets": made["targets"]}

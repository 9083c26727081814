"""Which offline tasks are trained on and which are held out, and all of a group as one stream; nothing here needs seqio.

Held out are whole clusters, as FLAN does, and cells of the table of list operations: an operation that is trained on other
kinds of items, on a kind that other operations are trained on.
"""

import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from t5x_like.prompting import renderings
from t5x_like.prompting.templates import Template, chosen, render
from tasks import code_wordings, drawn, worlds_lists, worlds_numbers, worlds_text, worlds_wiki

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


@dataclass(frozen=True)
class Offline:
    """A task that needs no data: examples of a split, their wordings, and the cluster it belongs to."""

    examples: Callable[[str], Iterator[dict]]
    templates: tuple[Template, ...]
    cluster: str


WORLDS = {
    **{
        name: Offline(functools.partial(drawn.of, family.named, name), world.templates, world.cluster)
        for family in (worlds_lists, worlds_numbers, worlds_text)
        for name, world in family.WORLDS.items()
    },
    **{name: Offline(*questions) for name, questions in worlds_wiki.QUESTIONS.items()},
}
CODE = {
    name: Offline(questions.examples, questions.templates, questions.cluster)
    for name, questions in code_wordings.QUESTIONS.items()
}
ALL = WORLDS | CODE


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


def together(group: str, cap: int, split: str) -> Iterator[dict]:
    """{"task", "inputs", "targets"}: the tasks of a group in turn, at most `cap` examples of each, worded by hash."""
    streams = {name: itertools.islice(ALL[name].examples(split), cap) for name in GROUPS[group]}
    while streams:
        for name, stream in list(streams.items()):
            example = next(stream, None)
            if example is None:
                del streams[name]
            else:
                yield {"task": name, **worded(name, example)}


def worded(name: str, example: dict) -> dict[str, str]:
    """An example by one of its task's templates, without choices."""
    (template,) = chosen(ALL[name].templates, name, 1, 0, renderings.key_of(example))
    made = render(template, example)
    return {"inputs": made["inputs"], "targets": made["targets"]}

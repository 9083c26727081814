"""Tasks on short lists: every operation with every kind of item, so a pair can be held out while both are in training.

An example is {"items": the list, "item": the argument of the operation (if it has one), "answer", "rationale", "noun" and
"order"}; the last two describe the kind of item.
"""

import functools
import random
import string
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from t5x_like.prompting.templates import Template
from t5x_like.tasks.synthetic.sampling import SyntheticTask, TaskGenerator, make_templates, to_tasks

SHORT_WORDS = (
    "ant arm bag bat bed bee bell bird boat book box boy bus cake cap car cat clay coal coat cow crab cup deer desk dog door "
    "drum duck ear egg eye fan farm fish flag foot fork fox frog game gate goat gold hand hat hen hill home horn ice ink iron "
    "jam jar key king kite lake lamp leaf lion lock map milk moon mouse nail nest net nose oak oil owl pan park pen pig pin "
    "pipe plum pond pot rain ring road rock roof rope rose sand sea seed ship shoe silk snow soap sock sun tea tent toad tree "
    "tube van vase vest wall wave wax well wind wing wolf wood wool yard zoo"
)
WORDS = tuple(SHORT_WORDS.split())


@dataclass(frozen=True)
class Kind:
    """A kind of item: its noun, a sampler of distinct items, the name of its order, and the sort key."""

    noun: str
    sample: Callable[[random.Random, int], list[str]]
    order: str
    rank: Callable[[str], Any]


@dataclass(frozen=True)
class Operation:
    """A question about a list: `solve(items, rng, kind)` returns the fields it adds, with "answer" and "rationale"."""

    solve: Callable[[list[str], random.Random, Kind], dict]
    templates: tuple[Template, ...]
    cluster: str


def sample_words(rng: random.Random, count: int) -> list[str]:
    """Draws distinct words."""
    return rng.sample(WORDS, count)


def sample_numbers(rng: random.Random, count: int) -> list[str]:
    """Draws distinct numbers below 100."""
    return [str(number) for number in rng.sample(range(100), count)]


def sample_letters(rng: random.Random, count: int) -> list[str]:
    """Draws distinct letters."""
    return rng.sample(string.ascii_lowercase, count)


KINDS = (
    Kind("word", sample_words, "in alphabetical order", str),
    Kind("number", sample_numbers, "from smallest to largest", int),
    Kind("letter", sample_letters, "in alphabetical order", str),
)


def join_items(items: list[str]) -> str:
    """Returns a list as text."""
    return ", ".join(items)


def first_item(items: list[str], rng: random.Random, kind: Kind) -> dict:
    """Asks for the first item."""
    return {"answer": items[0], "rationale": f"The list begins with {items[0]}"}


def last_item(items: list[str], rng: random.Random, kind: Kind) -> dict:
    """Asks for the last item."""
    return {"answer": items[-1], "rationale": f"The list ends with {items[-1]}"}


def copy_items(items: list[str], rng: random.Random, kind: Kind) -> dict:
    """Asks for the list itself."""
    return {"answer": join_items(items), "rationale": f"The same again: {join_items(items)}"}


def reverse_items(items: list[str], rng: random.Random, kind: Kind) -> dict:
    """Asks for the list in reverse."""
    answer = join_items(items[::-1])
    return {"answer": answer, "rationale": f"From the end, {items[-1]}, to the beginning, {items[0]}: {answer}"}


def count_items(items: list[str], rng: random.Random, kind: Kind) -> dict:
    """Asks for the length of the list."""
    steps = ", ".join(f"{item} is {n}" for n, item in enumerate(items, 1))
    return {"answer": str(len(items)), "rationale": f"{steps}. That makes {len(items)}"}


def contains_item(items: list[str], rng: random.Random, kind: Kind) -> dict:
    """Asks whether an item is in the list; it is for about half of the examples."""
    contained = rng.random() < 0.5
    others = [one for one in kind.sample(rng, len(items) + 1) if one not in items]
    item = rng.choice(items) if contained or not others else others[0]
    answer = "yes" if item in items else "no"
    where = f"at place {items.index(item) + 1}" if item in items else "not there"
    return {"item": item, "answer": answer, "rationale": f"{item} is {where}, so {answer}"}


def item_after(items: list[str], rng: random.Random, kind: Kind) -> dict:
    """Asks for the item after another."""
    place = rng.randrange(len(items) - 1)
    item, answer = items[place], items[place + 1]
    return {"item": item, "answer": answer, "rationale": f"After {item} comes {answer}"}


def item_before(items: list[str], rng: random.Random, kind: Kind) -> dict:
    """Asks for the item before another."""
    place = rng.randrange(1, len(items))
    item, answer = items[place], items[place - 1]
    return {"item": item, "answer": answer, "rationale": f"Before {item} comes {answer}"}


def sort_items(items: list[str], rng: random.Random, kind: Kind) -> dict:
    """Sorts the list; the rationale is a selection sort, one step for each place."""
    left, steps = list(items), []
    while len(left) > 1:
        least = min(left, key=kind.rank)
        steps.append(f"Of {join_items(left)} the first is {least}.")
        left.remove(least)
    answer = join_items(sorted(items, key=kind.rank))
    return {"answer": answer, "rationale": f"{' '.join(steps)} {left[0]} is left: {answer}"}


def least_item(items: list[str], rng: random.Random, kind: Kind) -> dict:
    """Asks for the first item in order; the rationale is the running minimum."""
    best, steps = items[0], []
    for item in items[1:]:
        best = min(best, item, key=kind.rank)
        steps.append(f"with {item}: {best}")
    return {"answer": best, "rationale": f"{items[0]}, {', '.join(steps)}. It is {best}"}


def repeated_item(items: list[str], rng: random.Random, kind: Kind) -> dict:
    """Inserts one of the items a second time, and asks for it."""
    twice = rng.choice(items)
    longer = list(items)
    longer.insert(rng.randrange(len(items) + 1), twice)
    return {"items": longer, "answer": twice, "rationale": f"All but one are there once; twice there is {twice}"}


def remove_item(items: list[str], rng: random.Random, kind: Kind) -> dict:
    """Asks for the list without one of its items."""
    item = rng.choice(items)
    answer = join_items([one for one in items if one != item])
    return {"item": item, "answer": answer, "rationale": f"{item} goes, what stays is {answer}"}


LIST = "{{ items | join(', ') }}"
YES_NO = ("yes", "no")

OPERATIONS = {
    "first_of": Operation(
        first_item,
        make_templates(
            f"What is the first {{{{ noun }}}} of this list?\n{LIST}",
            f"Write the first {{{{ noun }}}}: {LIST}",
            f"{LIST}\nThe first {{{{ noun }}}} is",
            f"Here are some {{{{ noun }}}}s: {LIST}. Give only the one at the beginning.",
            f"List: {LIST}\nTask: copy the first {{{{ noun }}}}.",
        ),
        "place",
    ),
    "last_of": Operation(
        last_item,
        make_templates(
            f"What is the last {{{{ noun }}}} of this list?\n{LIST}",
            f"Write the last {{{{ noun }}}}: {LIST}",
            f"{LIST}\nThe last {{{{ noun }}}} is",
            f"Here are some {{{{ noun }}}}s: {LIST}. Give only the one at the end.",
            f"List: {LIST}\nTask: copy the last {{{{ noun }}}}.",
        ),
        "place",
    ),
    "copy_of": Operation(
        copy_items,
        make_templates(
            f"Copy this list of {{{{ noun }}}}s.\n{LIST}",
            f"Write the same {{{{ noun }}}}s again: {LIST}",
            f"{LIST}\nThe same {{{{ noun }}}}s once more:",
            f"Repeat these {{{{ noun }}}}s without any change: {LIST}",
            f"List: {LIST}\nTask: copy all {{{{ noun }}}}s.",
        ),
        "copy",
    ),
    "reverse_of": Operation(
        reverse_items,
        make_templates(
            f"Write this list of {{{{ noun }}}}s backwards.\n{LIST}",
            f"Reverse the order of the {{{{ noun }}}}s: {LIST}",
            f"{LIST}\nThe same {{{{ noun }}}}s from the last to the first:",
            f"Turn the list round, so that its last {{{{ noun }}}} comes first: {LIST}",
            f"List: {LIST}\nTask: reverse the {{{{ noun }}}}s.",
        ),
        "copy",
    ),
    "count_of": Operation(
        count_items,
        make_templates(
            f"How many {{{{ noun }}}}s are in this list?\n{LIST}",
            f"Count the {{{{ noun }}}}s: {LIST}",
            f"{LIST}\nThe number of {{{{ noun }}}}s is",
            f"How long is this list of {{{{ noun }}}}s? {LIST}",
            f"List: {LIST}\nTask: count the {{{{ noun }}}}s.",
        ),
        "count",
    ),
    "contains_of": Operation(
        contains_item,
        make_templates(
            f"Is the {{{{ noun }}}} {{{{ item }}}} in this list? Answer yes or no.\n{LIST}",
            f"Does this list hold {{{{ item }}}}? {LIST}\nyes or no?",
            f"{LIST}\nIs {{{{ item }}}} one of these {{{{ noun }}}}s (yes or no)?",
            f"Say yes if {{{{ item }}}} is among these {{{{ noun }}}}s and no if it is not: {LIST}",
            f"List: {LIST}\nTask: is {{{{ item }}}} in it, yes or no?",
            choices=YES_NO,
        ),
        "membership",
    ),
    "after_of": Operation(
        item_after,
        make_templates(
            f"Which {{{{ noun }}}} comes after {{{{ item }}}} in this list?\n{LIST}",
            f"Write the {{{{ noun }}}} behind {{{{ item }}}}: {LIST}",
            f"{LIST}\nThe {{{{ noun }}}} right after {{{{ item }}}} is",
            f"In the list {LIST}, what follows {{{{ item }}}}?",
            f"List: {LIST}\nTask: copy the {{{{ noun }}}} after {{{{ item }}}}.",
        ),
        "neighbour",
    ),
    "before_of": Operation(
        item_before,
        make_templates(
            f"Which {{{{ noun }}}} comes before {{{{ item }}}} in this list?\n{LIST}",
            f"Write the {{{{ noun }}}} in front of {{{{ item }}}}: {LIST}",
            f"{LIST}\nThe {{{{ noun }}}} right before {{{{ item }}}} is",
            f"In the list {LIST}, what stands before {{{{ item }}}}?",
            f"List: {LIST}\nTask: copy the {{{{ noun }}}} before {{{{ item }}}}.",
        ),
        "neighbour",
    ),
    "sort_of": Operation(
        sort_items,
        make_templates(
            f"Sort these {{{{ noun }}}}s {{{{ order }}}}.\n{LIST}",
            f"Put the {{{{ noun }}}}s {{{{ order }}}}: {LIST}",
            f"{LIST}\nThe same {{{{ noun }}}}s {{{{ order }}}}:",
            f"Here are {{{{ noun }}}}s: {LIST}. Write them {{{{ order }}}}.",
            f"List: {LIST}\nTask: sort it {{{{ order }}}}.",
        ),
        "order",
    ),
    "least_of": Operation(
        least_item,
        make_templates(
            f"Which {{{{ noun }}}} is the first one if the list is sorted {{{{ order }}}}?\n{LIST}",
            f"Of these {{{{ noun }}}}s, write the one that is first {{{{ order }}}}: {LIST}",
            f"{LIST}\nTaken {{{{ order }}}}, the first {{{{ noun }}}} is",
            f"Sort these {{{{ noun }}}}s {{{{ order }}}} and give only the first: {LIST}",
            f"List: {LIST}\nTask: copy the {{{{ noun }}}} that is first {{{{ order }}}}.",
        ),
        "order",
    ),
    "repeated_of": Operation(
        repeated_item,
        make_templates(
            f"Which {{{{ noun }}}} is in this list twice?\n{LIST}",
            f"Write the {{{{ noun }}}} that is repeated: {LIST}",
            f"{LIST}\nThe {{{{ noun }}}} that stands here twice is",
            f"One of these {{{{ noun }}}}s occurs two times: {LIST}. Which one?",
            f"List: {LIST}\nTask: copy the {{{{ noun }}}} that is there twice.",
        ),
        "membership",
    ),
    "without_of": Operation(
        remove_item,
        make_templates(
            f"Write this list without {{{{ item }}}}.\n{LIST}",
            f"Remove the {{{{ noun }}}} {{{{ item }}}}: {LIST}",
            f"{LIST}\nThe same {{{{ noun }}}}s but {{{{ item }}}}:",
            f"Leave out {{{{ item }}}} and copy the other {{{{ noun }}}}s: {LIST}",
            f"List: {LIST}\nTask: copy all {{{{ noun }}}}s except {{{{ item }}}}.",
        ),
        "copy",
    ),
}


def draw(operation: Operation, kind: Kind, rng: random.Random) -> dict:
    """Draws an example of an operation on a list of 2 to 5 items."""
    items = kind.sample(rng, rng.randint(2, 5))
    words = {"noun": kind.noun, "order": kind.order}
    return {"items": items, **words, **operation.solve(items, rng, kind)}


GENERATORS = {
    f"{name}_{kind.noun}s": TaskGenerator(
        functools.partial(draw, operation, kind),
        ("items",),
        operation.templates,
        f"list_{operation.cluster}",
        6_000,
    )
    for name, operation in OPERATIONS.items()
    for kind in KINDS
}


def find_generator(name: str) -> TaskGenerator:
    """Returns a generator of this file by name."""
    return GENERATORS[name]


def make_tasks() -> dict[str, SyntheticTask]:
    """Returns the tasks of this file by name."""
    return to_tasks(GENERATORS, find_generator)

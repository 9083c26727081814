"""Short lists: every operation on every kind of item, so that a pair of them can be held out while both are trained on.

Examples: {"items": the list, "item": what is asked for (where an operation needs one), "answer", "rationale", and the words
of the kind: "noun", "nouns", "order"}.
"""

import functools
import random
import string
from collections.abc import Callable
from dataclasses import dataclass

from t5x_like.prompting.templates import Template
from t5x_like.tasks.synthetic.sampling import Offline, World, offline, worded

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
    """What lists are made of, and how its order is spoken of."""

    noun: str
    drawn: Callable[[random.Random, int], list[str]]
    order: str
    rank: Callable[[str], object]


@dataclass(frozen=True)
class Operation:
    """A question about a list: (items, rng, kind) -> the fields it adds, with the answer and how to get there."""

    ask: Callable[[list[str], random.Random, Kind], dict]
    templates: tuple[Template, ...]
    cluster: str


def some_words(rng: random.Random, count: int) -> list[str]:
    return rng.sample(WORDS, count)


def some_numbers(rng: random.Random, count: int) -> list[str]:
    return [str(number) for number in rng.sample(range(100), count)]


def some_letters(rng: random.Random, count: int) -> list[str]:
    return rng.sample(string.ascii_lowercase, count)


KINDS = (
    Kind("word", some_words, "in alphabetical order", str),
    Kind("number", some_numbers, "from smallest to largest", int),
    Kind("letter", some_letters, "in alphabetical order", str),
)


def shown(items: list[str]) -> str:
    return ", ".join(items)


def first(items, rng, kind) -> dict:
    return {"answer": items[0], "rationale": f"The list begins with {items[0]}"}


def last(items, rng, kind) -> dict:
    return {"answer": items[-1], "rationale": f"The list ends with {items[-1]}"}


def copied(items, rng, kind) -> dict:
    return {"answer": shown(items), "rationale": f"The same again: {shown(items)}"}


def backwards(items, rng, kind) -> dict:
    answer = shown(items[::-1])
    return {"answer": answer, "rationale": f"From the end, {items[-1]}, to the beginning, {items[0]}: {answer}"}


def counted(items, rng, kind) -> dict:
    steps = ", ".join(f"{item} is {n}" for n, item in enumerate(items, 1))
    return {"answer": str(len(items)), "rationale": f"{steps}. That makes {len(items)}"}


def contained(items, rng, kind) -> dict:
    """Half of the time the item is one of the list."""
    wanted = rng.random() < 0.5
    others = [one for one in kind.drawn(rng, len(items) + 1) if one not in items]
    item = rng.choice(items) if wanted or not others else others[0]
    answer = "yes" if item in items else "no"
    where = f"at place {items.index(item) + 1}" if item in items else "not there"
    return {"item": item, "answer": answer, "rationale": f"{item} is {where}, so {answer}"}


def following(items, rng, kind) -> dict:
    place = rng.randrange(len(items) - 1)
    item, answer = items[place], items[place + 1]
    return {"item": item, "answer": answer, "rationale": f"After {item} comes {answer}"}


def preceding(items, rng, kind) -> dict:
    place = rng.randrange(1, len(items))
    item, answer = items[place], items[place - 1]
    return {"item": item, "answer": answer, "rationale": f"Before {item} comes {answer}"}


def ordered(items, rng, kind) -> dict:
    """One step for each place: the least of what is left."""
    left, steps = list(items), []
    while len(left) > 1:
        least = min(left, key=kind.rank)
        steps.append(f"Of {shown(left)} the first is {least}.")
        left.remove(least)
    answer = shown(sorted(items, key=kind.rank))
    return {"answer": answer, "rationale": f"{' '.join(steps)} {left[0]} is left: {answer}"}


def least(items, rng, kind) -> dict:
    """The running minimum."""
    best, steps = items[0], []
    for item in items[1:]:
        best = min(best, item, key=kind.rank)
        steps.append(f"with {item}: {best}")
    return {"answer": best, "rationale": f"{items[0]}, {', '.join(steps)}. It is {best}"}


def repeated(items, rng, kind) -> dict:
    """The list gets one of its items a second time."""
    twice = rng.choice(items)
    longer = list(items)
    longer.insert(rng.randrange(len(items) + 1), twice)
    return {"items": longer, "answer": twice, "rationale": f"All but one are there once; twice there is {twice}"}


def without(items, rng, kind) -> dict:
    item = rng.choice(items)
    answer = shown([one for one in items if one != item])
    return {"item": item, "answer": answer, "rationale": f"{item} goes, what stays is {answer}"}


LIST = "{{ items | join(', ') }}"
YES_NO = ("yes", "no")

OPERATIONS = {
    "first_of": Operation(
        first,
        worded(
            f"What is the first {{{{ noun }}}} of this list?\n{LIST}",
            f"Write the first {{{{ noun }}}}: {LIST}",
            f"{LIST}\nThe first {{{{ noun }}}} is",
            f"Here are some {{{{ noun }}}}s: {LIST}. Give only the one at the beginning.",
            f"List: {LIST}\nTask: copy the first {{{{ noun }}}}.",
        ),
        "place",
    ),
    "last_of": Operation(
        last,
        worded(
            f"What is the last {{{{ noun }}}} of this list?\n{LIST}",
            f"Write the last {{{{ noun }}}}: {LIST}",
            f"{LIST}\nThe last {{{{ noun }}}} is",
            f"Here are some {{{{ noun }}}}s: {LIST}. Give only the one at the end.",
            f"List: {LIST}\nTask: copy the last {{{{ noun }}}}.",
        ),
        "place",
    ),
    "copy_of": Operation(
        copied,
        worded(
            f"Copy this list of {{{{ noun }}}}s.\n{LIST}",
            f"Write the same {{{{ noun }}}}s again: {LIST}",
            f"{LIST}\nThe same {{{{ noun }}}}s once more:",
            f"Repeat these {{{{ noun }}}}s without any change: {LIST}",
            f"List: {LIST}\nTask: copy all {{{{ noun }}}}s.",
        ),
        "copy",
    ),
    "reverse_of": Operation(
        backwards,
        worded(
            f"Write this list of {{{{ noun }}}}s backwards.\n{LIST}",
            f"Reverse the order of the {{{{ noun }}}}s: {LIST}",
            f"{LIST}\nThe same {{{{ noun }}}}s from the last to the first:",
            f"Turn the list round, so that its last {{{{ noun }}}} comes first: {LIST}",
            f"List: {LIST}\nTask: reverse the {{{{ noun }}}}s.",
        ),
        "copy",
    ),
    "count_of": Operation(
        counted,
        worded(
            f"How many {{{{ noun }}}}s are in this list?\n{LIST}",
            f"Count the {{{{ noun }}}}s: {LIST}",
            f"{LIST}\nThe number of {{{{ noun }}}}s is",
            f"How long is this list of {{{{ noun }}}}s? {LIST}",
            f"List: {LIST}\nTask: count the {{{{ noun }}}}s.",
        ),
        "count",
    ),
    "contains_of": Operation(
        contained,
        worded(
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
        following,
        worded(
            f"Which {{{{ noun }}}} comes after {{{{ item }}}} in this list?\n{LIST}",
            f"Write the {{{{ noun }}}} behind {{{{ item }}}}: {LIST}",
            f"{LIST}\nThe {{{{ noun }}}} right after {{{{ item }}}} is",
            f"In the list {LIST}, what follows {{{{ item }}}}?",
            f"List: {LIST}\nTask: copy the {{{{ noun }}}} after {{{{ item }}}}.",
        ),
        "neighbour",
    ),
    "before_of": Operation(
        preceding,
        worded(
            f"Which {{{{ noun }}}} comes before {{{{ item }}}} in this list?\n{LIST}",
            f"Write the {{{{ noun }}}} in front of {{{{ item }}}}: {LIST}",
            f"{LIST}\nThe {{{{ noun }}}} right before {{{{ item }}}} is",
            f"In the list {LIST}, what stands before {{{{ item }}}}?",
            f"List: {LIST}\nTask: copy the {{{{ noun }}}} before {{{{ item }}}}.",
        ),
        "neighbour",
    ),
    "sort_of": Operation(
        ordered,
        worded(
            f"Sort these {{{{ noun }}}}s {{{{ order }}}}.\n{LIST}",
            f"Put the {{{{ noun }}}}s {{{{ order }}}}: {LIST}",
            f"{LIST}\nThe same {{{{ noun }}}}s {{{{ order }}}}:",
            f"Here are {{{{ noun }}}}s: {LIST}. Write them {{{{ order }}}}.",
            f"List: {LIST}\nTask: sort it {{{{ order }}}}.",
        ),
        "order",
    ),
    "least_of": Operation(
        least,
        worded(
            f"Which {{{{ noun }}}} is the first one if the list is sorted {{{{ order }}}}?\n{LIST}",
            f"Of these {{{{ noun }}}}s, write the one that is first {{{{ order }}}}: {LIST}",
            f"{LIST}\nTaken {{{{ order }}}}, the first {{{{ noun }}}} is",
            f"Sort these {{{{ noun }}}}s {{{{ order }}}} and give only the first: {LIST}",
            f"List: {LIST}\nTask: copy the {{{{ noun }}}} that is first {{{{ order }}}}.",
        ),
        "order",
    ),
    "repeated_of": Operation(
        repeated,
        worded(
            f"Which {{{{ noun }}}} is in this list twice?\n{LIST}",
            f"Write the {{{{ noun }}}} that is repeated: {LIST}",
            f"{LIST}\nThe {{{{ noun }}}} that stands here twice is",
            f"One of these {{{{ noun }}}}s occurs two times: {LIST}. Which one?",
            f"List: {LIST}\nTask: copy the {{{{ noun }}}} that is there twice.",
        ),
        "membership",
    ),
    "without_of": Operation(
        without,
        worded(
            f"Write this list without {{{{ item }}}}.\n{LIST}",
            f"Remove the {{{{ noun }}}} {{{{ item }}}}: {LIST}",
            f"{LIST}\nThe same {{{{ noun }}}}s but {{{{ item }}}}:",
            f"Leave out {{{{ item }}}} and copy the other {{{{ noun }}}}s: {LIST}",
            f"List: {LIST}\nTask: copy all {{{{ noun }}}}s except {{{{ item }}}}.",
        ),
        "copy",
    ),
}


def drawn(operation: Operation, kind: Kind, rng: random.Random) -> dict:
    """An operation on a list of 2 to 5 items."""
    items = kind.drawn(rng, rng.randint(2, 5))
    words = {"noun": kind.noun, "order": kind.order}
    return {"items": items, **words, **operation.ask(items, rng, kind)}


WORLDS = {
    f"{name}_{kind.noun}s": World(
        functools.partial(drawn, operation, kind),
        ("items",),
        operation.templates,
        f"list_{operation.cluster}",
        6_000,
    )
    for name, operation in OPERATIONS.items()
    for kind in KINDS
}


def named(name: str) -> World:
    """The world of a name, found again in any process."""
    return WORLDS[name]


def tasks() -> dict[str, Offline]:
    """The worlds of this file by their names."""
    return offline(WORLDS, named)

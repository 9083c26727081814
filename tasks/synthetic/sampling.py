"""Examples that a program draws: a function of (name, split, draws, seed), the same on every machine."""

import functools
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from t5x_like.prompting.templates import Template
from t5x_like.tasks import corpora

Draw = Callable[[random.Random], dict]


@dataclass(frozen=True)
class World:
    """A generated task: what draws an example, the fields that tell examples apart, and its wordings.

    `choices` says that templates list the answers to rank, `cluster` which tasks of the same kind are held out together.
    """

    draw: Draw
    key: tuple[str, ...]
    templates: tuple[Template, ...]
    cluster: str
    draws: int = 20_000


def examples(name: str, draw: Draw, key: tuple[str, ...], draws: int, split: str, seed: int = 0) -> Iterator[dict]:
    """The distinct ones of `draws` examples that belong to a split, by the hash of their key fields (1 in 20 validates)."""
    seen = set()
    for index in range(draws):
        example = draw(random.Random(f"{name} {seed} {index}"))
        text = repr([example[field] for field in key])
        if text not in seen and corpora.split_of(f"{name} {text}") == split:
            seen.add(text)
            yield example


def of(named: Callable[[str], World], name: str, split: str, seed: int = 0) -> Iterator[dict]:
    """The examples of the world that `named` knows by a name: a partial of this says in words all that they depend on."""
    world = named(name)
    return examples(name, world.draw, world.key, world.draws, split, seed)


@dataclass(frozen=True)
class Offline:
    """A task that needs no data: examples of a split, their wordings, and the cluster it belongs to."""

    examples: Callable[[str], Iterator[dict]]
    templates: tuple[Template, ...]
    cluster: str


def offline(worlds: Mapping[str, World], named: Callable[[str], World]) -> dict[str, Offline]:
    """Worlds as tasks."""
    return {
        name: Offline(functools.partial(of, named, name), world.templates, world.cluster)
        for name, world in worlds.items()
    }


def worded(
    *inputs: str, targets: str = "{{ answer }}", choices: str | tuple[str, ...] | None = None
) -> tuple[Template, ...]:
    """Templates of one answer in several wordings, named by their number."""
    return tuple(Template(f"wording_{n}", text, targets, choices) for n, text in enumerate(inputs, 1))

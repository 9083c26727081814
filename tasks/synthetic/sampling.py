"""Randomly generated examples: a function of (name, split, draws, seed), equal on every machine."""

import functools
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from t5x_like.prompting.templates import Template
from t5x_like.tasks import corpora

Draw = Callable[[random.Random], dict]


@dataclass(frozen=True)
class TaskGenerator:
    """Generates the examples of one task.

    Attributes:
      draw: draws an example.
      key: the fields that identify an example; duplicates are dropped.
      templates: wordings of the task.
      cluster: tasks of the same cluster are similar, and are held out together.
      draws: number of draws; duplicates and the other split leave fewer examples.
    """

    draw: Draw
    key: tuple[str, ...]
    templates: tuple[Template, ...]
    cluster: str
    draws: int = 20_000


@dataclass(frozen=True)
class SyntheticTask:
    """A task that needs no data: `examples(split)` yields its examples, `cluster` names its group of similar tasks."""

    examples: Callable[[str], Iterator[dict]]
    templates: tuple[Template, ...]
    cluster: str


def draw_examples(name: str, draw: Draw, key: tuple[str, ...], draws: int, split: str, seed: int = 0) -> Iterator[dict]:
    """Yields the distinct examples of a split among `draws` draws; the hash of the key puts 1 in 20 in validation."""
    seen = set()
    for index in range(draws):
        example = draw(random.Random(f"{name} {seed} {index}"))
        text = repr([example[field] for field in key])
        if text not in seen and corpora.split_of(f"{name} {text}") == split:
            seen.add(text)
            yield example


def generate(find: Callable[[str], TaskGenerator], name: str, split: str, seed: int = 0) -> Iterator[dict]:
    """Yields the examples of the generator `find(name)`.

    A partial of this function names, by strings and functions, all that the examples depend on.
    """
    generator = find(name)
    return draw_examples(name, generator.draw, generator.key, generator.draws, split, seed)


def to_tasks(generators: Mapping[str, TaskGenerator], find: Callable[[str], TaskGenerator]) -> dict[str, SyntheticTask]:
    """Returns a task for each generator; `find` returns a generator by name in any process."""
    return {
        name: SyntheticTask(functools.partial(generate, find, name), generator.templates, generator.cluster)
        for name, generator in generators.items()
    }


def make_templates(
    *inputs: str, targets: str = "{{ answer }}", choices: str | tuple[str, ...] | None = None
) -> tuple[Template, ...]:
    """Returns templates with the same targets, one for each wording of the inputs."""
    return tuple(Template(f"wording_{n}", text, targets, choices) for n, text in enumerate(inputs, 1))

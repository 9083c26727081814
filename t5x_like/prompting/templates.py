"""Templates word the fields of an example as inputs and targets, many a task (FLAN, Wei et al. 2021; P3, Sanh et al. 2022).

>>> add = Template("add", "What is {{ a }} + {{ b }}?", "{{ a + b }}")
>>> render(add, {"a": 2, "b": 3})
{'inputs': 'What is 2 + 3?', 'targets': '5'}
>>> asked = Template("asked", "{{ text }} Is that so?", "{{ ['no', 'yes'][label] }}", ("no", "yes"))
>>> render(asked, {"text": "Snow is white.", "label": 1})["choices"]
['no', 'yes']
"""

import functools
import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment


@dataclass(frozen=True)
class Template:
    """A wording: `inputs` and `targets` are Jinja over the example's fields, with nothing added or taken at their ends.

    `choices` are the answers to rank, one of which the targets are: Jinja that gives one a line, or fixed texts.

    Raises:
      ValueError: a part is no Jinja.
    """

    name: str
    inputs: str
    targets: str
    choices: str | tuple[str, ...] | None = None

    def __post_init__(self):
        for part in ("inputs", "targets", *(["choices"] if isinstance(self.choices, str) else [])):
            try:
                compiled(getattr(self, part))
            except jinja2.TemplateSyntaxError as error:
                raise ValueError(f"template {self.name!r}, {part}, line {error.lineno}: {error.message}") from error


def environment() -> jinja2.Environment:
    """Jinja in a sandbox, without what gives another text at every call; a field that is absent is an error."""
    made = ImmutableSandboxedEnvironment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    del made.filters["random"], made.globals["lipsum"]
    return made


ENVIRONMENT = environment()


@functools.cache
def compiled(text: str) -> jinja2.Template:
    """A part of a template, compiled once."""
    return ENVIRONMENT.from_string(text)


def filled(template: Template, part: str, example: Mapping) -> str:
    """One part of a template with an example's fields in it."""
    try:
        return compiled(getattr(template, part)).render(example)
    except (jinja2.TemplateError, TypeError, LookupError, ValueError, ArithmeticError) as error:
        fields = ", ".join(sorted(example))
        raise ValueError(f"template {template.name!r}, {part}: {error}; the example has the fields {fields}") from error


def render(template: Template, example: Mapping) -> dict:
    """{"inputs", "targets"} of an example, and "choices" where the template has them.

    Raises:
      ValueError: a field the example has not, an expression that fails on it, or targets that are none of the choices.
    """
    made = {part: filled(template, part, example) for part in ("inputs", "targets")}
    if template.choices is None:
        return made
    choices = template.choices
    if isinstance(choices, str):
        choices = [line for line in filled(template, "choices", example).splitlines() if line.strip()]
    if made["targets"] not in choices:
        raise ValueError(f"template {template.name!r}: targets {made['targets']!r} are none of choices {list(choices)}")
    return made | {"choices": list(choices)}


def drawn(*key) -> int:
    """64 bits that depend on `key` alone, texts and numbers: the same in every process and on every machine."""
    return int.from_bytes(hashlib.blake2b(json.dumps(key).encode(), digest_size=8).digest(), "big")


def shuffled(size: int, *key) -> Iterator[int]:
    """0 .. size - 1 in an order drawn by hash; only what is asked for is worked out (Fisher and Yates)."""
    moved: dict[int, int] = {}
    start = drawn(*key)
    for first in range(size):
        other = first + drawn(start, first) % (size - first)
        yield moved.get(other, other)
        moved[other] = moved.get(first, first)


def chosen(templates: Sequence[Template], task: str, renditions: int, seed: int, key: str) -> list[Template]:
    """The templates an example is rendered with, by hash of (task, key, seed): all different while templates last.

    `key` tells the examples of a task apart.

    Raises:
      ValueError: no template, two of the same name, or renditions below 1.
    """
    if not templates or len({template.name for template in templates}) < len(templates):
        names = [template.name for template in templates]
        raise ValueError(f"templates={names} of task {task!r}: give at least one, each with a name of its own")
    if renditions < 1:
        raise ValueError(
            f"renditions={renditions} of task {task!r} is below 1; every example is rendered at least once"
        )
    order = list(itertools.islice(shuffled(len(templates), "template", task, key, seed), renditions))
    return [templates[order[number % len(order)]] for number in range(renditions)]

"""Templates turn the fields of an example into inputs and targets, several per task (Wei et al. 2021; Sanh et al. 2022).

>>> add = Template("add", "What is {{ a }} + {{ b }}?", "{{ a + b }}")
>>> render(add, {"a": 2, "b": 3})
{'inputs': 'What is 2 + 3?', 'targets': '5'}
>>> claim = Template("claim", "{{ text }} Is that so?", "{{ ['no', 'yes'][label] }}", ("no", "yes"))
>>> render(claim, {"text": "Snow is white.", "label": 1})["choices"]
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
    """A wording of a task, as Jinja over the fields of an example; whitespace at the ends is kept.

    Attributes:
      name: unique among the templates of a task.
      inputs: Jinja of the inputs.
      targets: Jinja of the targets.
      choices: the answers to rank, which include the targets: Jinja that gives one per line, or fixed texts.

    Raises:
      ValueError: a part is not valid Jinja.
    """

    name: str
    inputs: str
    targets: str
    choices: str | tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for part in ("inputs", "targets", *(["choices"] if isinstance(self.choices, str) else [])):
            try:
                compile_text(getattr(self, part))
            except jinja2.TemplateSyntaxError as error:
                raise ValueError(f"template {self.name!r}, {part}, line {error.lineno}: {error.message}") from error
            except RecursionError as error:
                raise ValueError(f"template {self.name!r}, {part}, is nested too deeply") from error


def make_environment() -> jinja2.Environment:
    """Returns a sandboxed Jinja environment without random functions, where an absent field is an error."""
    environment = ImmutableSandboxedEnvironment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    del environment.filters["random"], environment.globals["lipsum"]
    return environment


ENVIRONMENT = make_environment()


@functools.cache
def compile_text(text: str) -> jinja2.Template:
    """Compiles a part of a template; cached."""
    return ENVIRONMENT.from_string(text)


def render_part(template: Template, part: str, example: Mapping) -> str:
    """Renders one part of a template with the fields of an example.

    Raises:
      ValueError: the example lacks a field, or an expression fails.
    """
    try:
        return compile_text(getattr(template, part)).render(example)
    except Exception as error:  # an expression may fail in any way
        fields, reason = ", ".join(sorted(example)), str(error) or type(error).__name__
        raise ValueError(
            f"template {template.name!r}, {part}: {reason}; the example has the fields {fields}"
        ) from error


def render(template: Template, example: Mapping) -> dict:
    """Returns {"inputs", "targets"} of an example, and "choices" if the template has them.

    Raises:
      ValueError: the example lacks a field, an expression fails, or the targets are not among the choices.
    """
    rendered: dict = {part: render_part(template, part, example) for part in ("inputs", "targets")}
    if template.choices is None:
        return rendered
    choices: Sequence[str] = template.choices
    if isinstance(choices, str):
        choices = [line for line in render_part(template, "choices", example).split("\n") if line.strip()]
    if rendered["targets"] not in choices:
        raise ValueError(
            f"template {template.name!r}: targets {rendered['targets']!r} are not among the choices {list(choices)}"
        )
    return rendered | {"choices": list(choices)}


def stable_hash(*key: str | int) -> int:
    """Returns a 64-bit hash of `key`, equal in every process and on every machine."""
    return int.from_bytes(hashlib.blake2b(json.dumps(key).encode(), digest_size=8).digest(), "big")


def permutation(size: int, *key: str | int) -> Iterator[int]:
    """Yields 0 .. size - 1 in a random order given by the hash of `key` (Fisher-Yates, computed lazily)."""
    moved: dict[int, int] = {}
    start = stable_hash(*key)
    for first in range(size):
        other = first + stable_hash(start, first) % (size - first)
        yield moved.get(other, other)
        moved[other] = moved.get(first, first)


def choose_templates(templates: Sequence[Template], task: str, renditions: int, seed: int, key: str) -> list[Template]:
    """Returns the templates that an example is rendered with, by hash of (task, key, seed).

    All are different if there are enough templates.

    Args:
      templates: the templates of the task.
      task: name of the task.
      renditions: the number of templates to choose.
      seed: seed of the hash.
      key: identifies the example; see `renderings.example_key`.

    Raises:
      ValueError: no templates, two with the same name, or renditions below 1.
    """
    if not templates or len({template.name for template in templates}) < len(templates):
        names = [template.name for template in templates]
        raise ValueError(f"templates={names} of task {task!r}: give at least one, each with a unique name")
    if renditions < 1:
        raise ValueError(
            f"renditions={renditions} of task {task!r} is below 1; every example is rendered at least once"
        )
    order = list(itertools.islice(permutation(len(templates), "template", task, key, seed), renditions))
    return [templates[order[number % len(order)]] for number in range(renditions)]

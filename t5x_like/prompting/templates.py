"""Templates: an example's fields worded as inputs and targets, many wordings a task (FLAN, Wei et al. 2021; P3, Sanh et al. 2022).

>>> add = Template("add", "What is {{ a }} + {{ b }}?", "{{ a + b }}")
>>> render(add, {"a": 2, "b": 3})
{'inputs': 'What is 2 + 3?', 'targets': '5'}
>>> asked = Template("nli", "{{ text }} Is that so?", "{{ ['no', 'yes'][label] }}", ("no", "yes"))
>>> render(asked, {"text": "Snow is white.", "label": 1})["choices"]
['no', 'yes']
"""

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
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


@functools.lru_cache(maxsize=None)
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
    """64 bits that depend on `key` alone, which is texts and numbers: the same in every process and on every machine."""
    return int.from_bytes(hashlib.blake2b(json.dumps(key).encode(), digest_size=8).digest(), "big")


def chosen(templates: Sequence[Template], task: str, key, renditions: int, seed: int = 0) -> list[Template]:
    """The templates an example is rendered with, by hash of (task, key, seed): all different while templates last.

    `key` tells the examples of a task apart: an index or a name.
    """
    if not templates:
        raise ValueError(f"task {task!r} has no templates; give at least 1")
    if renditions < 1:
        raise ValueError(
            f"renditions={renditions} of task {task!r} is below 1; every example is rendered at least once"
        )
    order = sorted(range(len(templates)), key=lambda i: drawn("template", task, key, seed, i))
    return [templates[order[i % len(order)]] for i in range(renditions)]

"""Renders examples as prompts: zero-shot, few-shot, chain of thought, and chats."""

import hashlib
import heapq
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from t5x_like.prompting.templates import Template, permutation, render, stable_hash

ANSWER = "\nThe answer is "
STEPS = (
    "\nThink it through one step after the other.",
    "\nWork it out in steps, then give the answer.",
    "\nWrite down how you get there before you answer.",
    "\nReason first, answer last.",
)


def add_steps(
    templates: Sequence[Template], steps: Sequence[str] = STEPS, answer: str = ANSWER
) -> tuple[Template, ...]:
    """Returns chain-of-thought templates (Wei et al. 2022): the targets are the field `rationale`, then the answer.

    Template n appends `steps[n]` to its inputs. Choices are removed, since nothing is ranked; see `extract_answer`.

    >>> add = Template("add", "What is {{ a }} + {{ b }}?", "{{ a + b }}")
    >>> example = {"a": 9, "b": 3, "rationale": "9 + 1 is 10, and 2 more are 12."}
    >>> render(add_steps([add])[0], example)["targets"]
    '9 + 1 is 10, and 2 more are 12.\\nThe answer is 12'
    """
    return tuple(
        Template(
            f"{template.name}_steps",
            template.inputs + steps[number % len(steps)],
            "{{ rationale }}" + answer + template.targets,
        )
        for number, template in enumerate(templates)
    )


def extract_answer(text: str, example: Mapping | None = None, is_target: bool = False) -> str:
    """Returns the answer after a chain of thought, or the whole text; a seqio postprocess function.

    A target's answer is the text after its last ANSWER. A prediction's is the rest of the line after its first ANSWER, since a
    model may go on with questions of its own (as in lm-evaluation-harness, gsm8k_cot).
    """
    mark = ANSWER.strip() + " "
    if is_target:
        return text.rpartition(mark)[2].strip()
    _, found, rest = f"\n{text}".partition(ANSWER)
    if not found:
        _, found, rest = text.partition(mark)
    return rest.strip().partition("\n")[0].strip() if found else text.strip()


@dataclass(frozen=True)
class Shots:
    """The solved examples shown before a question.

    They come from a pool and are rendered by the same template as the question.

    Attributes:
      counts: numbers of solved examples; one is selected by hash for each question, as in FLAN.
      between: text between inputs and targets.
      separator: text between examples.
      pool: size of the pool: the examples with the smallest hashes.
      split: the split that the pool is read from.

    Raises:
      ValueError: `counts` is empty, has a negative number, or exceeds the pool.
    """

    counts: tuple[int, ...] = (0,)
    between: str = "\n"
    separator: str = "\n\n"
    pool: int = 1000
    split: str = "train"

    def __post_init__(self) -> None:
        if not self.counts or min(self.counts) < 0:
            raise ValueError(
                f"counts={self.counts} must be numbers of examples, 0 or more; give (0,) for none, or (1, 3, 5)"
            )
        if max(self.counts) >= self.pool:
            raise ValueError(
                f"counts={self.counts} needs more examples than pool={self.pool} holds besides the question; raise pool"
            )


@dataclass(frozen=True)
class Rendition:
    """One rendering of an example: the question, and the solved examples shown before it, each as `render` returns it."""

    question: Mapping
    exemplars: tuple[Mapping, ...] = ()


def example_key(example: Mapping) -> str:
    """Returns a hash of an example's fields, which identifies it independently of its position and shard."""
    return hashlib.blake2b(json.dumps(example, sort_keys=True).encode(), digest_size=16).hexdigest()


def select_pool(examples: Iterable[Mapping], shots: Shots, task: str) -> list[Mapping]:
    """Returns the `shots.pool` examples with the smallest hashes, independently of their order."""
    ranked = ((stable_hash("pool", task, key), key, example) for example in examples for key in [example_key(example)])
    return [example for *_, example in heapq.nsmallest(shots.pool, ranked, key=lambda entry: entry[:2])]


def render_with_shots(
    choose: Callable[[str], Sequence[Template]],
    shots: Shots,
    task: str,
    seed: int,
    pool: Sequence[Mapping],
    example: Mapping,
    number: int,
) -> Rendition:
    """Renders an example by template `number` of `choose(key)`, with solved examples from the pool.

    Args:
      choose: returns the templates for an example's key; see `templates.choose_templates`.
      shots: how many solved examples to show.
      task: name of the task.
      seed: seed of the hashes.
      pool: see `select_pool`.
      example: the example to render.
      number: index of the rendition.

    Raises:
      ValueError: the template does not fit the example, or the pool has too few other examples.
    """
    key = example_key(example)
    template = choose(key)[number]
    question = render(template, example)
    count = shots.counts[stable_hash("shots", task, key, number, seed) % len(shots.counts)]
    exemplars = draw_exemplars(template, question["inputs"], pool, count, ("exemplars", task, key, number, seed))
    return Rendition(question, exemplars)


def draw_exemplars(
    template: Template, question: str, pool: Sequence[Mapping], count: int, key: tuple[str | int, ...]
) -> tuple[dict, ...]:
    """Draws `count` examples of a pool by hash of `key`, with inputs different from each other and from the question.

    Raises:
      ValueError: the pool has too few different examples.
    """
    exemplars: dict[str, dict] = {}
    for index in permutation(len(pool), *key):
        if len(exemplars) == count:
            break
        exemplar = render(template, pool[index])
        if exemplar["inputs"] != question:
            exemplars.setdefault(exemplar["inputs"], exemplar)
    if len(exemplars) < count:
        raise ValueError(
            f"template {template.name!r} needs {count} other examples to show, the pool of {len(pool)} has "
            f"{len(exemplars)} with different inputs; lower Shots.counts, or take them from a larger split"
        )
    return tuple(exemplars.values())


def to_pair(rendition: Rendition, shots: Shots) -> dict:
    """Returns {"inputs", "targets"}, and "choices" if there are any; the solved examples are at the start of the inputs."""
    before = [f"{one['inputs']}{shots.between}{one['targets']}{shots.separator}" for one in rendition.exemplars]
    last = shots.between if before else ""
    return {**rendition.question, "inputs": "".join(before) + rendition.question["inputs"] + last}


def to_messages(rendition: Rendition, system: str | None = None) -> list[dict[str, str]]:
    """Returns a chat whose first turns are the solved examples, after the message `system` if given."""
    first = [] if system is None else [{"role": "system", "content": system}]
    turns = ((one["inputs"], one["targets"]) for one in (*rendition.exemplars, rendition.question))
    roles = ("user", "assistant")
    return first + [{"role": role, "content": text} for turn in turns for role, text in zip(roles, turn, strict=True)]

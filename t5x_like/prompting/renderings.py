"""From an example to what a model reads and answers: zero-shot, few-shot, with its steps written down, and as a chat."""

import hashlib
import heapq
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from t5x_like.prompting.templates import Template, drawn, render, shuffled

ANSWER = "\nThe answer is "
STEPS = (
    "\nThink it through one step after the other.",
    "\nWork it out in steps, then give the answer.",
    "\nWrite down how you get there before you answer.",
    "\nReason first, answer last.",
)


def with_steps(
    templates: Sequence[Template], steps: Sequence[str] = STEPS, answer: str = ANSWER
) -> tuple[Template, ...]:
    """Chain of thought (Wei et al. 2022): templates that ask for the steps, the field `rationale`, and then the answer.

    Wording n asks as `steps` n does. There is nothing to rank, so choices are left out; `final_answer` finds the answer.

    >>> add = Template("add", "What is {{ a }} + {{ b }}?", "{{ a + b }}")
    >>> example = {"a": 9, "b": 3, "rationale": "9 + 1 is 10, and 2 more are 12."}
    >>> render(with_steps([add])[0], example)["targets"]
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


def final_answer(text: str, example: Mapping | None = None, is_target: bool = False) -> str:
    """What stands behind the last ANSWER, or the whole text; seqio's protocol for a postprocess function."""
    return text.rpartition(ANSWER.strip())[2].strip()


@dataclass(frozen=True)
class Shots:
    """How many solved examples stand before the one that is asked: `counts`, one drawn for each example, as FLAN does.

    They come from the `pool` examples of split `split` with the smallest hash, worded by the same template. `between`
    stands between inputs and targets, `separator` between examples.
    """

    counts: tuple[int, ...] = (0,)
    between: str = "\n"
    separator: str = "\n\n"
    pool: int = 1000
    split: str = "train"

    def __post_init__(self):
        if not self.counts or min(self.counts) < 0:
            raise ValueError(
                f"counts={self.counts} are no numbers of examples to show; give (0,) for none, or (1, 3, 5)"
            )
        if max(self.counts) >= self.pool:
            raise ValueError(
                f"counts={self.counts} want more examples than pool={self.pool} holds besides the one asked"
            )


@dataclass(frozen=True)
class Rendition:
    """One wording of an example: what is asked, and the solved examples shown before it."""

    asked: Mapping
    shown: tuple[Mapping, ...] = ()


def key_of(example: Mapping) -> str:
    """What tells an example from others: a hash of its fields, so that neither its place nor its shard matters."""
    return hashlib.blake2b(json.dumps(example, sort_keys=True).encode(), digest_size=16).hexdigest()


def pool_of(examples: Iterable[Mapping], shots: Shots, task: str) -> list[Mapping]:
    """The examples that shots are drawn from: those of the smallest hash, whatever the order they come in."""
    ranked = ((drawn("pool", task, key), key, example) for example in examples for key in [key_of(example)])
    return [example for *_, example in heapq.nsmallest(shots.pool, ranked, key=lambda one: one[:2])]


def rendition(
    choose: Callable[[str], Sequence[Template]],
    shots: Shots,
    task: str,
    seed: int,
    pool: Sequence[Mapping],
    example: Mapping,
    number: int,
) -> Rendition:
    """An example by template `number` of those that `choose` gives for its key; see `templates.chosen` and `pool_of`.

    Raises:
      ValueError: a template and an example that do not fit, or a pool with too few other examples.
    """
    key = key_of(example)
    template = choose(key)[number]
    asked = render(template, example)
    count = shots.counts[drawn("shots", task, key, number, seed) % len(shots.counts)]
    return Rendition(asked, exemplars(template, asked["inputs"], pool, count, ("exemplars", task, key, number, seed)))


def exemplars(template: Template, asked: str, pool: Sequence[Mapping], count: int, key: tuple) -> tuple[dict, ...]:
    """`count` examples of a pool drawn by hash of `key`, all with different inputs, none with those that are asked."""
    shown: dict[str, dict] = {}
    for index in shuffled(len(pool), *key):
        if len(shown) == count:
            break
        one = render(template, pool[index])
        if one["inputs"] != asked:
            shown.setdefault(one["inputs"], one)
    if len(shown) < count:
        raise ValueError(
            f"template {template.name!r} needs {count} other examples to show, the pool of {len(pool)} has {len(shown)} "
            "with different inputs; lower Shots.counts, or take them from a larger split"
        )
    return tuple(shown.values())


def as_pair(rendition: Rendition, shots: Shots) -> dict:
    """{"inputs", "targets"} and, where there are, "choices": the solved examples stand at the beginning of the inputs."""
    before = [f"{one['inputs']}{shots.between}{one['targets']}{shots.separator}" for one in rendition.shown]
    last = shots.between if before else ""
    return {**rendition.asked, "inputs": "".join(before) + rendition.asked["inputs"] + last}


def as_messages(rendition: Rendition, system: str | None = None) -> list[dict[str, str]]:
    """A chat: the solved examples are its first turns; `system` is the system's message before them."""
    first = [] if system is None else [{"role": "system", "content": system}]
    turns = ((one["inputs"], one["targets"]) for one in (*rendition.shown, rendition.asked))
    names = ("user", "assistant")
    return first + [{"role": role, "content": text} for turn in turns for role, text in zip(names, turn, strict=True)]

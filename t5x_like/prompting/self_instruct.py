"""Self-Instruct (Wang et al. 2022, arXiv:2212.10560): a language model writes new tasks with inputs and outputs from a few seeds.

A round shows the model tasks, most of them seeds, and it writes more; then it answers each. A task is kept if its instruction is
not too similar to any that is there (ROUGE-L), if text alone can do it, and if it has an output of its own. The result is data
for gin_configs/runs/alpaca.gin.

>>> seeds = [Task("Name a fruit.", "", "Apple"), Task("Add the numbers.", "1, 2", "3")]
>>> made = bootstrap(lm.generate, seeds, count=100)  # doctest: +SKIP
"""

import dataclasses
import random
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from t5x_like.prompting.templates import stable_hash
from t5x_like.text_metrics import similar

Generate = Callable[
    ..., Sequence[str]
]  # `types.LM.generate`: (prompts, max_tokens=, temperature=, top_p=, stop=, seed=)
# Words of tasks that need more than text.
BEYOND_TEXT = (
    *(
        "image",
        "images",
        "picture",
        "pictures",
        "photo",
        "graph",
        "graphs",
        "chart",
        "diagram",
        "map",
        "maps",
        "video",
        "videos",
    ),
    *("audio", "music", "draw", "plot", "file", "files", "flowchart", "link", "website"),
)
NUMBER = re.compile(r"(?:^|\n)\s*\d+\s*[.):]\s*")
NONE = "(none)"
INTRODUCTION = "These are different tasks for an assistant that reads and writes text.\n\n"
EXAMPLES = "These are tasks, each with an input if it needs one, and the right output.\n\n"
CHOICES = "These are tasks whose output is one of a few labels, with an output and an input that has it.\n\n"


@dataclasses.dataclass(frozen=True)
class Task:
    """An instruction with its input ("" for none) and output; `is_choice` if the output is one of a few labels."""

    instruction: str
    input: str
    output: str
    is_choice: bool = False


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How tasks are made.

    Attributes:
      shown: tasks in a prompt for new instructions.
      shown_made: how many of them the model made, if there are as many.
      wanted: instructions that a completion is to have.
      prompts: prompts of a round.
      similarity: the largest ROUGE-L F, 0 to 1, to another instruction.
      words: the least and most words of an instruction.
      forbidden: words that an instruction must not have.
      temperature: of instructions; answers are greedy.
      top_p: likewise.
      max_tokens: of every completion.
      patience: rounds without a new task after which it is an error.
      seed: of all random choices.

    Raises:
      ValueError: a number out of its range.
    """

    shown: int = 8
    shown_made: int = 2
    wanted: int = 8
    prompts: int = 8
    similarity: float = 0.7
    words: tuple[int, int] = (3, 150)
    forbidden: Collection[str] = BEYOND_TEXT
    temperature: float = 0.7
    top_p: float = 0.9
    max_tokens: int = 512
    patience: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("shown", "wanted", "prompts", "max_tokens", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be 1 or more")
        if not 0 <= self.shown_made < self.shown:
            raise ValueError(f"shown_made={self.shown_made} must be 0 or more, and less than shown={self.shown}")
        if not 0 <= self.similarity <= 1:
            raise ValueError(f"similarity={self.similarity} is no ROUGE-L F: give a number from 0 to 1, such as 0.7")


@dataclasses.dataclass(frozen=True)
class Made:
    """A new task, its round, and how similar its instruction is to the `nearest` of those before."""

    task: Task
    round: int
    similarity: float
    nearest: str | None


@dataclasses.dataclass(frozen=True)
class Rejected:
    """An instruction that was not kept, by `rule`: words, forbidden, start, similar, no_output, repeated_output."""

    instruction: str
    round: int
    rule: str


def bootstrap(
    generate: Generate,
    seeds: Sequence[Task],
    count: int,
    recipe: Recipe = Recipe(),
    made: Sequence[Task] = (),
    first_round: int = 0,
) -> Iterator[Made | Rejected]:
    """Yields tasks, and what is rejected, until `count` are made; `made` are those of the rounds before `first_round`.

    Raises:
      ValueError: there are fewer than 2 seeds, or a seed has no instruction or output.
      RuntimeError: no task is made in `recipe.patience` rounds.
    """
    check_seeds(seeds)
    pool, made = similar.Collection(), list(made)
    for task in (*seeds, *made):
        pool.add(task.instruction)
    without, number = 0, first_round
    while len(made) < count:
        before, rejected = len(made), []
        for event in make_round(generate, seeds, tuple(made), pool, recipe, number):
            yield event
            if isinstance(event, Rejected):
                rejected.append(event)
                continue
            made.append(event.task)
            if len(made) >= count:
                return
        number, without = number + 1, 0 if len(made) > before else without + 1
        if without == recipe.patience:
            last = f"; the last rejected: {rejected[-1].rule}, {rejected[-1].instruction[:80]!r}" if rejected else ""
            raise RuntimeError(
                f"no new task in {without} rounds of {recipe.prompts} prompts{last}; raise temperature or similarity="
                f"{recipe.similarity}, give more seeds, or a better model"
            )


def make_round(
    generate: Generate,
    seeds: Sequence[Task],
    made: Sequence[Task],
    pool: similar.Collection,
    recipe: Recipe,
    number: int,
) -> Iterator[Made | Rejected]:
    """Yields the tasks of a round, which are added to the pool, and what is rejected."""
    draw = random.Random(stable_hash("self-instruct", recipe.seed, number))
    prompts = [instructions_prompt(draw, seeds, made, recipe) for _ in range(recipe.prompts)]
    own = min(recipe.shown_made, len(made))
    last = own + min(recipe.shown - own, len(seeds)) + recipe.wanted
    options = {"temperature": recipe.temperature, "top_p": recipe.top_p, "seed": draw.getrandbits(31)}
    fresh: list[tuple[str, float, str | None]] = []
    for completion in generate(prompts, max_tokens=recipe.max_tokens, stop=(f"\n{last + 1}.",), **options):
        for instruction in read_instructions(completion):
            rule = reject_instruction(instruction, recipe)
            nearest = (0.0, None) if rule else pool.nearest(instruction)
            if rule or nearest[0] > recipe.similarity:
                yield Rejected(instruction, number, rule or "similar")
                continue
            pool.add(instruction)
            fresh.append((instruction, *nearest))
    tasks = answer(generate, [instruction for instruction, *_ in fresh], seeds, recipe, draw)
    for (instruction, similarity, other), task in zip(fresh, tasks, strict=True):
        if rule := reject_answer(task):
            pool.remove(instruction)
            yield Rejected(instruction, number, rule)
        else:
            yield Made(task, number, similarity, other)


def instructions_prompt(draw: random.Random, seeds: Sequence[Task], made: Sequence[Task], recipe: Recipe) -> str:
    """The prompt for new instructions: a numbered list of `recipe.shown` instructions, and the next number."""
    own = draw.sample(list(made), min(recipe.shown_made, len(made)))
    shown = own + draw.sample(list(seeds), min(recipe.shown - len(own), len(seeds)))
    draw.shuffle(shown)
    lines = [f"{place}. {' '.join(task.instruction.split())}\n" for place, task in enumerate(shown, 1)]
    return INTRODUCTION + "".join(lines) + f"{len(shown) + 1}."


def read_instructions(completion: str) -> list[str]:
    """The instructions of a completion; the last one only if it ends as a sentence does, because it may be cut off.

    >>> read_instructions(" Name a fruit.\\n9. Add the\\nnumbers.\\n10. Write a")
    ['Name a fruit.', 'Add the numbers.']
    """
    found = [" ".join(part.split()) for part in NUMBER.split(completion)]
    if found and not found[-1].endswith((".", "?", "!", ":", "。", "？", "！")):
        found.pop()
    return [part for part in found if part]


def reject_instruction(instruction: str, recipe: Recipe) -> str | None:
    """The rule that an instruction breaks; None if it breaks none."""
    least, most = recipe.words
    words = re.findall(r"\w+", instruction.lower())
    # Scripts without spaces have many letters in a word.
    if not least <= max(len(words), len(instruction) // 12) <= most:
        return "words"
    if not instruction[0].isalnum() and instruction[0] not in "\"'“«¿¡":
        return "start"
    return "forbidden" if set(recipe.forbidden) & set(words) else None


def reject_answer(task: Task) -> str | None:
    """The rule that an input and output break; None if they break none."""
    if not task.output:
        return "no_output"
    same = similar.fold(task.output) in (similar.fold(task.input), similar.fold(task.instruction))
    return "repeated_output" if same else None


def answer(
    generate: Generate, instructions: Sequence[str], seeds: Sequence[Task], recipe: Recipe, draw: random.Random
) -> list[Task]:
    """Tasks with the model's inputs and outputs, greedily; "" is the output where it writes none.

    Where some seeds are choices, the model says which instructions are, too; for those it writes the output first, since the
    input would otherwise have one label too often (section 3.1 of the paper).
    """
    if not instructions:
        return []
    choices = find_choices(generate, instructions, seeds, draw)
    shown = {kind: draw.sample(own, min(recipe.shown, len(own))) for kind, own in split_seeds(seeds).items()}
    prompts = [answer_prompt(one, shown[kind], kind) for one, kind in zip(instructions, choices, strict=True)]
    texts = generate(prompts, max_tokens=recipe.max_tokens, temperature=0.0, top_p=1.0, seed=0, stop=("\n\nTask:",))
    return [read_answer(*each) for each in zip(instructions, texts, choices, strict=True)]


def split_seeds(seeds: Sequence[Task]) -> Mapping[bool, list[Task]]:
    """The seeds that are choices, and the others; all of them where there are none of a kind."""
    kinds = {kind: [seed for seed in seeds if seed.is_choice == kind] for kind in (False, True)}
    return {kind: own or list(seeds) for kind, own in kinds.items()}


def find_choices(
    generate: Generate, instructions: Sequence[str], seeds: Sequence[Task], draw: random.Random
) -> list[bool]:
    """Whether the output of each task is one of a few labels, as the model says; never if the seeds are of one kind."""
    if len({seed.is_choice for seed in seeds}) < 2:
        return [seeds[0].is_choice] * len(instructions)
    shown = [task for own in split_seeds(seeds).values() for task in draw.sample(own, min(6, len(own)))]
    draw.shuffle(shown)
    blocks = [
        f"Task: {task.instruction}\nIs the output one of a few labels? {'Yes' if task.is_choice else 'No'}\n\n"
        for task in shown
    ]
    prompts = [f"{''.join(blocks)}Task: {one}\nIs the output one of a few labels?" for one in instructions]
    texts = generate(prompts, max_tokens=4, temperature=0.0, top_p=1.0, seed=0, stop=("\n",))
    return [text.strip().lower().startswith("yes") for text in texts]


def write_parts(task: Task, output_first: bool) -> str:
    """The input and output of a task as a prompt shows them."""
    parts = [f"Input: {task.input or NONE}\n", f"Output: {task.output}\n"]
    return "".join(reversed(parts) if output_first else parts)


def answer_prompt(instruction: str, shown: Sequence[Task], output_first: bool) -> str:
    """The prompt for the input and output of an instruction."""
    blocks = [f"Task: {task.instruction}\n{write_parts(task, output_first)}\n" for task in shown]
    first = "Output:" if output_first else "Input:"
    return f"{CHOICES if output_first else EXAMPLES}{''.join(blocks)}Task: {instruction}\n{first}"


def read_answer(instruction: str, completion: str, output_first: bool) -> Task:
    """The task of an instruction and a completion, which may repeat the word that it begins after."""
    names = ("Output:", "Input:") if output_first else ("Input:", "Output:")
    text = completion.strip().removeprefix(names[0])
    first, found, second = text.partition(f"\n{names[1]}")
    output, given = (first, second) if output_first else (second if found else "", first)
    given = "" if given.strip().strip("().").lower() in ("none", "") else given.strip()
    return Task(instruction, given, output.strip(), output_first)


def check_seeds(seeds: Sequence[Task]) -> None:
    """Checks that there are seeds to show.

    Raises:
      ValueError: there are fewer than 2, or one has no instruction or output.
    """
    if len(seeds) < 2:
        raise ValueError(f"{len(seeds)} seeds are too few to show the model; give 2 or more (the paper: 175)")
    for number, seed in enumerate(seeds):
        if not seed.instruction.strip() or not seed.output.strip():
            raise ValueError(f"seed {number}, {seed.instruction[:60]!r}, needs an instruction and an output")


def read_task(record: Mapping[str, Any], where: str) -> Task:
    """The task of a record {"instruction", "input", "output", "is_choice"}, the last two fields but one optional.

    Raises:
      ValueError: a field is missing or of another type; the message begins with `where`.
    """
    instruction, given, output = (record.get(name) for name in ("instruction", "input", "output"))
    given = "" if given is None else given
    if not (isinstance(instruction, str) and isinstance(given, str) and isinstance(output, str)):
        raise ValueError(
            f'{where}: need {{"instruction": TEXT, "input": TEXT, "output": TEXT}}, found {str(record)[:80]!r}'
        )
    return Task(instruction, given, output, bool(record.get("is_choice", False)))

"""Self-Instruct with a scripted model: what is kept obeys the filters, and a run that goes on makes the same tasks."""

import dataclasses
import json
import random
import re

import pytest

from t5x_like.prompting import self_instruct
from t5x_like.prompting.self_instruct import Made, Recipe, Rejected, Task, bootstrap, read_answer, read_instructions

pytest.importorskip("rouge_score")
SEEDS = [
    Task("Name a fruit that is red.", "", "Apple"),
    Task("Add all the numbers in the list.", "1, 2", "3"),
    Task("Say whether the review is good or bad.", "I loved it.", "good", True),
]
WORDS = [f"word{n}" for n in range(30)]


def sentence(number):
    """A random instruction; every third is like another."""
    words = random.Random(number // 3).sample(WORDS, 6)
    return f"Write {' '.join(words[: 6 - number % 3])}."


def scripted(written=sentence):
    """A model that writes two instructions a prompt, by the seed and the prompt's place; `calls` are what it is given."""
    calls = []

    def generate(prompts, **options):
        calls.append((list(prompts), options))
        if prompts[0].endswith("labels?"):
            return [" Yes" if "choose" in prompt.rpartition("Task:")[2].lower() else " No" for prompt in prompts]
        if prompts[0].endswith("Output:"):
            return [" good\nInput: It was fine." for _ in prompts]
        if prompts[0].endswith("Input:"):
            return [" (none)\nOutput: done." for _ in prompts]
        numbers = [int(re.search(r"(\d+)\.$", prompt)[1]) for prompt in prompts]
        places = [options["seed"] + 2 * n for n in range(len(prompts))]
        return [f" {written(k)}\n{n + 1}. {written(k + 1)}" for n, k in zip(numbers, places, strict=True)]

    return generate, calls


def make(recipe, count, **options):
    generate, calls = scripted(**options)
    return list(bootstrap(generate, SEEDS, count, recipe)), calls


def test_tasks_are_kept_if_they_differ_from_all_before():
    from rouge_score.rouge_scorer import RougeScorer

    events, calls = make(Recipe(prompts=4, similarity=0.6), 12)
    made = [event for event in events if isinstance(event, Made)]
    rejected = [event for event in events if isinstance(event, Rejected)]
    assert len(made) == 12 and {event.rule for event in rejected} == {"similar"}
    scorer, seen = RougeScorer(["rougeL"]), [seed.instruction for seed in SEEDS]
    for event in made:
        scores = [scorer.score(other, event.task.instruction)["rougeL"].fmeasure for other in seen]
        assert event.similarity == pytest.approx(max(scores)) and max(scores) <= 0.6
        assert max(scores) == (scores[seen.index(event.nearest)] if event.nearest else 0)
        assert event.task == Task(event.task.instruction, "", "done.", False)
        seen.append(event.task.instruction)
    prompts, options = calls[0]
    assert len(prompts) == 4 and options["stop"] == ("\n12.",) and options["temperature"] == 0.7
    assert all(seed.instruction in prompts[0] for seed in SEEDS) and prompts[0].endswith("\n4.")
    assert all(options["temperature"] == 0 for prompts, options in calls if not prompts[0].endswith("."))
    later = [prompts for prompts, _ in calls if prompts[0].endswith(".")][1]
    assert all(sum(f". {event.task.instruction}\n" in prompt for event in made) == 2 for prompt in later)


def test_a_run_that_goes_on_makes_the_same_tasks():
    recipe = Recipe(prompts=2)
    made = [event for event in make(recipe, 8)[0] if isinstance(event, Made)]
    before = [event.task for event in made if event.round < 2]
    assert 0 < len(before) < 8
    again = list(bootstrap(scripted()[0], SEEDS, 8, recipe, before, 2))
    assert [event for event in again if isinstance(event, Made)] == made[len(before) :]
    other = [event.task for event in make(Recipe(prompts=2, seed=1), 8)[0] if isinstance(event, Made)]
    assert other != [event.task for event in made]


def test_choices_have_their_output_written_first():
    events, calls = make(Recipe(prompts=1), 2, written=lambda n: sentence(3 * n).replace("Write", "Choose"))
    assert [event.task.is_choice for event in events] == [True, True]
    assert events[0].task.output == "good" and events[0].task.input == "It was fine."
    shown = next(prompts[0] for prompts, _ in calls if prompts[0].endswith("Output:"))
    assert (
        shown.startswith(self_instruct.CHOICES)
        and "Output: good\nInput: I loved it.\n" in shown
        and "Apple" not in shown
    )


@pytest.mark.parametrize(
    "written, rule",
    [
        ("Draw a picture of the house.", "forbidden"),
        ("Go on.", "words"),
        ("- Write a short poem about rain.", "start"),
        ("Name a fruit that is RED.", "similar"),
        (" ".join(["word"] * 200) + ".", "words"),
    ],
)
def test_bad_instructions_are_rejected_by_rule(written, rule):
    generate, _ = scripted(lambda n: written)
    events = []
    with pytest.raises(
        RuntimeError, match=f"no new task in 2 rounds of 1 prompts; the last rejected: {rule}, .*raise temperature"
    ):
        for event in bootstrap(generate, SEEDS, 1, Recipe(prompts=1, patience=2)):
            events.append(event)
    assert [event.rule for event in events] == [rule] * 4


def test_answers_without_an_output_are_rejected_and_may_come_again():
    generate, _ = scripted(lambda n: "Describe the smell of old books." if n % 2 else sentence(3 * n))
    answers = iter([" x", " x", "(none)\nOutput: the explain", " (none)\nOutput: A sweet smell."])

    def failing(prompts, **options):
        return [next(answers) for _ in prompts] if prompts[0].endswith("Input:") else generate(prompts, **options)

    events = list(bootstrap(failing, SEEDS[:2], 2, Recipe(prompts=1)))
    assert [event.rule for event in events[:2]] == ["no_output"] * 2
    assert [event.task.output for event in events[2:]] == ["the explain", "A sweet smell."]


def test_completions_are_read():
    assert read_instructions(" Name it.\n10. Add\nthem all!\n11) What is x?\n12. cut of") == [
        "Name it.",
        "Add them all!",
        "What is x?",
    ]
    assert read_instructions("") == [] and read_instructions("5. Start anew.") == ["Start anew."]
    assert read_answer("t", " a b\nOutput: c\nd ", False) == Task("t", "a b", "c\nd")
    assert read_answer("t", "Input: None\nOutput: c", False) == Task("t", "", "c")
    assert read_answer("t", " yes\nInput: q", True) == Task("t", "q", "yes", True)
    assert read_answer("t", " yes", True) == Task("t", "", "yes", True) and read_answer("t", " a", False).output == ""
    assert self_instruct.reject_answer(Task("Say hi.", "", "say  HI.")) == "repeated_output"


def test_bad_recipes_and_seeds_are_named():
    for options, message in (
        ({"similarity": 1.5}, "similarity=1.5 is no ROUGE-L F"),
        ({"shown": 2}, "shown_made=2 must be 0 or more, and less than shown=2"),
        ({"prompts": 0}, "prompts=0 must be 1 or more"),
    ):
        with pytest.raises(ValueError, match=message):
            Recipe(**options)
    generate, _ = scripted()
    with pytest.raises(ValueError, match="1 seeds are too few"):
        next(bootstrap(generate, SEEDS[:1], 1))
    with pytest.raises(ValueError, match="seed 1, 'Add all.*', needs an instruction and an output"):
        next(bootstrap(generate, [SEEDS[0], dataclasses.replace(SEEDS[1], output=" ")], 1))
    with pytest.raises(ValueError, match="a.jsonl, line 3: need"):
        self_instruct.read_task({"instruction": 1}, "a.jsonl, line 3")
    assert self_instruct.read_task(json.loads('{"instruction": "a", "output": "b"}'), "") == Task("a", "", "b")

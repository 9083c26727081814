"""Generated tasks: answers are correct, rationales are valid, splits are disjoint."""

import functools
import re
from collections import Counter

import pytest

from t5x_like.prompting.templates import render
from t5x_like.tasks.synthetic import lists, sampling, text, wiki
from t5x_like.tasks.synthetic import numbers as number_tasks

GENERATORS = lists.GENERATORS | number_tasks.GENERATORS | text.GENERATORS
STEP = re.compile(r"(\d+(?: [-+*] \d+)+) = (-?\d+)")


def sample(name: str, split: str, draws: int = 400) -> list[dict]:
    generator = GENERATORS[name]
    return list(sampling.draw_examples(name, generator.draw, generator.key, draws, split))


def number_or_text(item: str):
    return int(item) if item.isdigit() else item


def solve_list(question: str, e: dict) -> str:
    """Computes the answer from the fields, independently of the task's implementation."""
    items, item = e.get("items", []), e.get("item")
    place = items.index(item) if item in items else None
    return {
        "first_of": lambda: ", ".join(items).split(",")[0],
        "last_of": lambda: ", ".join(items).split(", ")[-1],
        "copy_of": lambda: ", ".join(items),
        "reverse_of": lambda: ", ".join(items[i] for i in range(len(items) - 1, -1, -1)),
        "count_of": lambda: str(", ".join(items).count(",") + 1),
        "contains_of": lambda: "yes" if f",{item}," in f",{','.join(items)}," else "no",
        "after_of": lambda: items[place + 1],
        "before_of": lambda: items[place - 1],
        "sort_of": lambda: ", ".join(str(x) for x in sorted(map(number_or_text, items))),
        "least_of": lambda: str(sorted(map(number_or_text, items))[0]),
        "repeated_of": lambda: Counter(items).most_common(1)[0][0],
        "without_of": lambda: ", ".join(items[:place] + items[place + 1 :]),
    }[question]()


@pytest.mark.parametrize("name", lists.GENERATORS)
def test_answers_of_list_tasks_are_correct(name):
    for example in sample(name, "train", 150):
        assert example["answer"] == solve_list(name.rpartition("_")[0], example)


OF_NUMBERS = {
    "addition": lambda e: e["a"] + e["b"],
    "subtraction": lambda e: e["a"] - e["b"],
    "multiplication": lambda e: sum(e["a"] for _ in range(e["b"])),
    "sum_of_several": lambda e: eval("+".join(map(str, e["numbers"]))),
    "larger_number": lambda e: e["a"] if e["a"] - e["b"] > 0 else e["b"],
    "smaller_number": lambda e: e["b"] if e["a"] - e["b"] > 0 else e["a"],
    "parity": lambda e: ("even", "odd")[e["a"] & 1],
    "digit_sum": lambda e: sum(e["a"] // 10**place % 10 for place in range(4)),
    "word_problem": lambda e: solve_story(e["story"]),
}


def solve_story(story: str) -> int:
    """Computes the answer to a word problem from its numbers and verbs."""
    numbers = [int(digits) for digits in re.findall(r"\d+", story)]
    if "boxes" in story:
        return numbers[0] * numbers[1] + numbers[2]
    if "bags" in story:
        return numbers[0] * numbers[1]
    if "finds" in story:
        return numbers[0] - numbers[1] + numbers[2]
    return numbers[0] - numbers[1] if "away" in story else numbers[0] + numbers[1]


@pytest.mark.parametrize("name", number_tasks.GENERATORS)
def test_answers_and_steps_of_number_tasks_are_correct(name):
    for example in sample(name, "train"):
        assert example["answer"] == str(OF_NUMBERS[name](example))
        for left, right in STEP.findall(example["rationale"]):
            assert eval(re.sub(r"\b0+(?=\d)", "", left)) == int(right), example


@pytest.mark.parametrize(("name", "sign"), [("addition", "+"), ("multiplication", "*")])
def test_the_digits_of_the_rationale_make_the_answer(name, sign):
    for example in sample(name, "train"):
        steps = example["rationale"].split(" So ")[0]
        digits = re.findall(r"[wW]rite (\d+)", steps)
        assert int("".join(reversed(digits))) == int(example["answer"]), example


OF_TEXT = {
    "uppercase": lambda e: "".join(chr(ord(letter) - 32) for letter in e["word"]),
    "spelling": lambda e: re.sub(r"(?<=.)(?=.)", "-", e["word"]),
    "backward_word": lambda e: "".join(reversed(e["word"])),
    "doubled_word": lambda e: " ".join([e["word"]] * 2),
    "first_letter": lambda e: e["word"][: -len(e["word"]) + 1 or None],
    "last_letter": lambda e: e["word"][len(e["word"]) - 1],
    "word_length": lambda e: str(sum(1 for _ in e["word"])),
    "letter_count": lambda e: str(len(re.findall(e["item"], e["word"]))),
    "last_letters": lambda e: "".join(re.findall(r"\w\b", " ".join(e["items"]))),
    "longest_word": lambda e: sorted(e["items"], key=len)[-1],
    "induction": lambda e: e["items"][e["items"].index(e["items"][-1]) + 1],
    "cycle": lambda e: continue_cycle(e["items"]),
    "lookup": lambda e: dict(row.split(": ") for row in e["rows"])[e["item"]],
    "reverse_lookup": lambda e: {v: k for k, v in (row.split(": ") for row in e["rows"])}[e["item"]],
}


def continue_cycle(items: list[str]) -> str:
    """Returns the next item of a sequence with the shortest possible period."""
    period = next(p for p in range(1, len(items)) if all(a == b for a, b in zip(items, items[p:], strict=False)))
    return items[len(items) - period]


@pytest.mark.parametrize("name", text.GENERATORS)
def test_answers_of_text_tasks_are_correct(name):
    for example in sample(name, "train"):
        assert example["answer"] == OF_TEXT[name](example)


def test_table_keys_and_the_longest_word_are_unique():
    for example in sample("reverse_lookup", "train"):
        assert len({row.split(": ")[1] for row in example["rows"]}) == len(example["rows"])
    for example in sample("longest_word", "train"):
        assert sum(len(item) == len(example["answer"]) for item in example["items"]) == 1


@pytest.mark.parametrize("name", GENERATORS)
def test_splits_are_disjoint_and_reproducible(name):
    examples = {split: sample(name, split) for split in ("train", "validation")}
    key = GENERATORS[name].key
    keys = {split: [repr([e[field] for field in key]) for e in rows] for split, rows in examples.items()}
    assert len(set(keys["train"])) == len(keys["train"])
    assert not set(keys["train"]) & set(keys["validation"])
    assert examples["validation"], "400 draws leave some for validation"
    assert sample(name, "train") == examples["train"]


@pytest.mark.parametrize("name", GENERATORS)
def test_wordings_are_different_and_the_rationale_ends_with_the_answer(name):
    templates = GENERATORS[name].templates
    assert len(templates) >= 5
    for example in sample(name, "validation"):
        assert example["rationale"].endswith(example["answer"])
        assert "\n" not in example["answer"]
        rendered = [render(template, example) for template in templates]
        assert len({one["inputs"] for one in rendered}) == len(rendered)
        assert {one["targets"] for one in rendered} == {example["answer"]}


def test_an_answer_ends_at_a_blank_line():
    import seqio

    from t5x_like.tasks.synthetic import generated_tasks

    for name in generated_tasks.TASKS:
        for variant, answer in (("", "yes"), ("_few_shot", "yes"), ("_chat", "yes\n\nThe next?")):
            assert seqio.TaskRegistry.get(f"{name}{variant}_bytes").postprocess_fn("yes\n\nThe next?") == answer


def test_another_seed_draws_other_examples():
    generate = functools.partial(sampling.generate, number_tasks.find_generator, "addition", "validation")
    first, second = ([e["a"] for e in generate(seed=seed)][:20] for seed in (0, 1))
    assert first != second


def test_wiki_questions_have_one_answer_which_the_articles_give():
    facts = wiki.make_facts()
    for wording in range(3):
        texts = {entity: wiki.write_article(entity, wording) for entity in facts}
        for entity, about in facts.items():
            assert all(value in texts[entity] for value in about.values())
    for split in ("train", "validation"):
        for example in [*wiki.one_hop(split), *wiki.two_hop(split)]:
            assert example["answer"] in example["context"]
            assert example["rationale"].endswith(example["answer"])
            assert example["context"].count("\n") == 2


def test_two_hop_answers_follow_from_two_questions_of_one_hop():
    one = {e["question"]: e["answer"] for split in ("train", "validation") for e in wiki.one_hop(split)}
    phrases = {relation.phrase.split("{}")[0]: relation for relation in wiki.RELATIONS.values()}
    for example in wiki.two_hop("validation"):
        question = example["question"]
        inside = ((p, e) for p in phrases for e in wiki.make_facts() if f"{p}{e} " in f"{question[:-1]} ")
        phrase, inner = next(inside)
        bridge = one[phrases[phrase].question.format(inner)]
        assert one[question.replace(phrase + inner, bridge)] == example["answer"]


def test_held_out_two_hop_questions_join_facts_of_one_hop_training_questions():
    training = {e["question"] for e in wiki.one_hop("train")}
    pairs = {split: list(wiki.two_hop(split)) for split in ("train", "validation")}
    questions = {split: {e["question"] for e in rows} for split, rows in pairs.items()}
    assert not questions["train"] & questions["validation"] and len(questions["validation"]) > 30
    assert not training & {e["question"] for e in wiki.one_hop("validation")}
    facts = {e["rationale"] for e in wiki.one_hop("train")}
    for example in pairs["validation"]:
        assert set(example["rationale"].split(". ")) <= facts


def test_wiki_articles_of_validation_have_other_wordings():
    texts = {split: {e["text"] for e in wiki.articles(split)} for split in ("train", "validation")}
    assert not texts["train"] & texts["validation"]
    assert len(texts["train"]) == 2 * len(texts["validation"]) == 2 * len(wiki.make_facts())

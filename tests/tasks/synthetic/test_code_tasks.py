"""Questions about the embedded code: their answers are what Python itself says of it."""

import ast
import inspect
import re

import pytest

from t5x_like.prompting.templates import render
from t5x_like.tasks import corpora
from t5x_like.tasks.synthetic import code_questions, code_wordings

QUESTIONS = code_wordings.QUESTIONS


@pytest.fixture(scope="module")
def examples():
    """The validation examples of every task."""
    return {name: list(task.examples("validation")) for name, task in QUESTIONS.items()}


@pytest.fixture(scope="module")
def sources():
    """The whole text of the validation split."""
    return "\n".join(text for _, text in corpora.sources("validation"))


@pytest.mark.parametrize("name", QUESTIONS)
def test_every_wording_of_every_task_renders_to_its_answer(examples, name):
    task = QUESTIONS[name]
    assert len(task.templates) >= 5 and len(examples[name]) > 100
    for example in examples[name][:40]:
        rendered = [render(template, example) for template in task.templates]
        assert len({one["inputs"] for one in rendered}) == len(rendered)
        assert all(one["targets"] == example["answer"] and one["targets"] for one in rendered)


@pytest.mark.parametrize("name", QUESTIONS)
def test_right_answers_have_the_best_score_and_others_less(examples, name):
    answers = [example["answer"] for example in examples[name]]
    shifted = [*answers[1:], answers[0]]
    for metric in QUESTIONS[name].metric_fns:
        right, wrong = metric(answers, answers), metric(answers, shifted)
        for value in right.keys() - {"bleu_length_ratio", "character_error_rate", "word_error_rate", "edit_distance"}:
            assert right[value] == pytest.approx(100) and wrong[value] < 95
    assert list(QUESTIONS[name].examples("validation")) == examples[name]


def test_names_and_docstrings_stand_in_the_sources(examples, sources):
    for example in examples["code_docstring_to_name"]:
        assert f"def {example['answer']}(" in sources
        assert example["answer"] not in example["docstring"]


def test_a_hidden_name_is_hidden(examples):
    for example in examples["code_to_name"]:
        assert not re.search(rf"\b{example['answer']}\b", example["code"])
        restored = example["code"].replace("____", example["answer"])
        assert ast.parse(restored).body[0].name == example["answer"]


def test_code_is_shown_without_its_docstring(examples):
    for example in examples["code_to_docstring"]:
        assert ast.get_docstring(ast.parse(example["code"]).body[0]) is None


def test_parameters_are_those_that_inspect_finds(examples):
    checked = 0
    for example in examples["code_parameters"]:
        space = {}
        try:
            exec(f"{example['signature']} pass", {}, space)  # our own standard library's signatures
        except NameError:
            continue  # a default value or annotation that only its module knows
        (made,) = space.values()
        names = [name for name in inspect.signature(made).parameters if name not in ("self", "cls")]
        assert example["answer"] == ", ".join(names)
        checked += 1
    assert checked > 100


def test_a_filled_line_gives_the_code_back(examples):
    whole = {one.code for one in code_questions.functions("validation")}
    for example in examples["code_missing_line"]:
        assert example["code"].replace("____", example["answer"], 1) in whole


def test_the_next_line_goes_on(examples):
    whole = [unindented(one.code) for one in code_questions.functions("validation")]
    for example in examples["code_next_line"]:
        shown = unindented(f"{example['code']}\n{example['answer']}")
        assert any(code == shown or code.startswith(f"{shown}\n") for code in whole)


def unindented(code: str) -> str:
    return re.sub(r"\n\s*", "\n", code)


def test_modules_are_those_of_the_code_and_among_the_options(examples):
    home = {one.code: one.module for one in code_questions.functions("validation")}
    for example in examples["code_module"]:
        assert home[example["code"]] == example["answer"] and example["options"].count(example["answer"]) == 1
        assert len(set(example["options"])) == 4


def test_called_names_are_called(examples):
    for example in examples["code_calls"]:
        names = example["answer"].split(", ")
        assert names == sorted(set(names))
        assert all(re.search(rf"\b{name}\(", example["code"]) for name in names)


def test_whether_a_value_is_returned():
    def of(text):
        own = list(code_questions.own_statements(ast.parse(text).body[0]))
        return any(isinstance(part, ast.Return) and part.value is not None for part in own)

    assert of("def f():\n  if x:\n    return 1")
    assert not of("def f():\n  def g(): return 1\n  return")
    assert not of("def f():\n  class A:\n    def g(self): return 1")


def test_values_are_pythons(examples):
    for example in examples["code_value"]:
        assert eval(example["code"]) == ast.literal_eval(example["answer"])
        assert repr(ast.literal_eval(example["answer"])) == example["answer"]


def test_no_expression_is_in_both_splits(examples):
    train = {example["code"] for example in QUESTIONS["code_value"].examples("train")}
    assert not train & {example["code"] for example in examples["code_value"]}


def test_no_module_is_in_both_splits():
    names = {s: {code_questions.module_of(name) for name, _ in corpora.sources(s)} for s in corpora.SPLITS}
    assert not names["train"] & names["validation"]

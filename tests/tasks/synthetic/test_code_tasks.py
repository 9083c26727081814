"""Tasks on code: answers agree with Python itself."""

import ast
import inspect
import re

import pytest

from t5x_like.prompting.templates import render
from t5x_like.tasks import corpora
from t5x_like.tasks.synthetic import code_questions, code_templates

TASKS = code_templates.TASKS


@pytest.fixture(scope="module")
def examples():
    """Returns the validation examples of every task."""
    return {name: list(task.examples("validation")) for name, task in TASKS.items()}


@pytest.fixture(scope="module")
def sources():
    """Returns the text of the validation split."""
    return "\n".join(text for _, text in corpora.read_sources("validation"))


@pytest.mark.parametrize("name", TASKS)
def test_every_wording_of_every_task_renders_to_its_answer(examples, name):
    task = TASKS[name]
    assert len(task.templates) >= 5 and len(examples[name]) > 100
    for example in examples[name][:40]:
        rendered = [render(template, example) for template in task.templates]
        assert len({one["inputs"] for one in rendered}) == len(rendered)
        assert all(one["targets"] == example["answer"] and one["targets"] for one in rendered)


@pytest.mark.parametrize("name", TASKS)
def test_correct_answers_score_best(examples, name):
    answers = [example["answer"] for example in examples[name]]
    shifted = [*answers[1:], answers[0]]
    for metric in TASKS[name].metric_fns:
        right, wrong = metric(answers, answers), metric(answers, shifted)
        for value in right.keys() - {"bleu_length_ratio", "character_error_rate", "word_error_rate", "edit_distance"}:
            assert right[value] == pytest.approx(100) and wrong[value] < 95
    assert list(TASKS[name].examples("validation")) == examples[name]


def test_names_are_in_the_sources_and_not_in_docstrings(examples, sources):
    for example in examples["code_docstring_to_name"]:
        assert f"def {example['answer']}(" in sources
        assert example["answer"] not in example["docstring"]


def test_the_name_is_hidden(examples):
    for example in examples["code_to_name"]:
        assert not re.search(rf"\b{example['answer']}\b", example["code"])
        restored = example["code"].replace("____", example["answer"])
        assert ast.parse(restored).body[0].name == example["answer"]


def test_code_has_no_docstring(examples):
    for example in examples["code_to_docstring"]:
        assert ast.get_docstring(ast.parse(example["code"]).body[0]) is None


def test_parameters_agree_with_inspect(examples):
    checked = 0
    for example in examples["code_parameters"]:
        space = {}
        try:
            exec(f"{example['signature']} pass", {}, space)  # a signature of the standard library
        except NameError:
            continue  # a default value or annotation from its module
        (function,) = space.values()
        names = [name for name in inspect.signature(function).parameters if name not in ("self", "cls")]
        assert example["answer"] == ", ".join(names)
        checked += 1
    assert checked > 100


def test_the_missing_line_restores_the_code(examples):
    codes = {function.code for function in code_questions.read_functions("validation")}
    for example in examples["code_missing_line"]:
        assert example["code"].replace("____", example["answer"], 1) in codes


def test_the_next_line_continues_the_code(examples):
    codes = [strip_indents(function.code) for function in code_questions.read_functions("validation")]
    for example in examples["code_next_line"]:
        prefix = strip_indents(f"{example['code']}\n{example['answer']}")
        assert any(code == prefix or code.startswith(f"{prefix}\n") for code in codes)


def strip_indents(code: str) -> str:
    return re.sub(r"\n\s*", "\n", code)


def test_modules_are_correct_and_among_the_options(examples):
    modules = {function.code: function.module for function in code_questions.read_functions("validation")}
    for example in examples["code_module"]:
        assert modules[example["code"]] == example["answer"] and example["options"].count(example["answer"]) == 1
        assert len(set(example["options"])) == 4


def test_called_names_are_called(examples):
    for example in examples["code_calls"]:
        names = example["answer"].split(", ")
        assert names == sorted(set(names))
        assert all(re.search(rf"\b{name}\(", example["code"]) for name in names)


def test_whether_a_value_is_returned():
    def returns_value(text):
        nodes = list(code_questions.walk_own_nodes(ast.parse(text).body[0]))
        return any(isinstance(part, ast.Return) and part.value is not None for part in nodes)

    assert returns_value("def f():\n  if x:\n    return 1")
    assert not returns_value("def f():\n  def g(): return 1\n  return")
    assert not returns_value("def f():\n  class A:\n    def g(self): return 1")


def test_values_agree_with_python(examples):
    for example in examples["code_value"]:
        assert eval(example["code"]) == ast.literal_eval(example["answer"])
        assert repr(ast.literal_eval(example["answer"])) == example["answer"]


def test_no_expression_is_in_both_splits(examples):
    train = {example["code"] for example in TASKS["code_value"].examples("train")}
    assert not train & {example["code"] for example in examples["code_value"]}


def test_no_module_is_in_both_splits():
    names = {s: {code_questions.module_name(name) for name, _ in corpora.read_sources(s)} for s in corpora.SPLITS}
    assert not names["train"] & names["validation"]

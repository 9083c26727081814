"""FLAN's chain-of-thought files: an invented one, and the real ones if $T5X_LIKE_DATA has them."""

import os
from collections import Counter

import pytest

from t5x_like.cleaning.steps import Dropped
from t5x_like.prompting.renderings import add_steps, extract_answer
from t5x_like.prompting.templates import render

LINE = "Is {0} even?\\nOptions:\\n- yes\\n- no\t{1}\tThe last digit of {0} is {2}.\n"
LINES = "".join(LINE.format(n, ("yes", "no")[n % 2], n % 10) for n in range(80))
REAL = os.environ.get("T5X_LIKE_DATA", "")
COUNTS = {
    "gsm8k": 7473,
    "strategyqa": 2061,
    "qasc": 1084,
    "ecqa": 7112,
    "creak": 6915,
    "aqua": 2728,
    "sensemaking": 6070,
}


def examples(name: str) -> dict[str, list]:
    from t5x_like.tasks.benchmarks import benchmark as definition
    from t5x_like.tasks.benchmarks import chain_of_thought

    examples_by_split = {}
    for split in ("train", "validation"):
        benchmark = chain_of_thought.BENCHMARKS[name]
        layout, paths = definition.find_files(benchmark, split)
        examples_by_split[split] = list(definition.make_examples(benchmark, layout.read(paths[0])))
    return examples_by_split


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("T5X_LIKE_DATA", str(tmp_path))
    (tmp_path / "flan_cot").mkdir()
    (tmp_path / "flan_cot/creak_train.tsv").write_text(LINES)
    return tmp_path


def test_lines_become_examples_and_the_answer_can_be_extracted(folder):
    from t5x_like.tasks.benchmarks import chain_of_thought

    splits = examples("cot_creak")
    assert len(splits["train"]) + len(splits["validation"]) == 80 and splits["validation"]
    assert not {one["question"] for one in splits["train"]} & {one["question"] for one in splits["validation"]}
    for example in splits["train"]:
        assert "\\n" not in example["question"] and example["question"].count("\n") == 3
        for template in add_steps(chain_of_thought.TEMPLATES):
            rendered = render(template, example)
            assert example["rationale"] in rendered["targets"] and example["rationale"] not in rendered["inputs"]
            assert extract_answer(rendered["targets"]) == example["answer"]


def test_a_line_without_three_fields_is_dropped(folder):
    with open(folder / "flan_cot/creak_train.tsv", "a") as file:
        file.write("Only a question?\n")
    lost = [one for rows in examples("cot_creak").values() for one in rows if isinstance(one, Dropped)]
    assert {one.rule for one in lost} == {"reading.columns"}


def test_the_task_reads_its_split(folder):
    import seqio

    from t5x_like.tasks.benchmarks import chain_of_thought  # noqa: F401

    task = seqio.TaskRegistry.get("cot_creak_steps_bytes")
    rows = list(task.get_dataset(None, "validation", shuffle=False).as_numpy_iterator())
    assert len(rows) == len(examples("cot_creak")["validation"])
    assert all(b"The answer is " in one["targets_pretokenized"] for one in rows)


@pytest.mark.skipif(not os.path.isdir(f"{REAL}/flan_cot"), reason="no real files below $T5X_LIKE_DATA/flan_cot")
@pytest.mark.parametrize("name", COUNTS)
def test_every_line_of_the_real_files_is_an_example(name, monkeypatch):
    monkeypatch.setenv("T5X_LIKE_DATA", REAL)
    splits = examples(f"cot_{name}")
    kinds = Counter(type(one) for rows in splits.values() for one in rows)
    assert kinds == {dict: COUNTS[name]}

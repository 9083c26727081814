"""Metrics of answers by the functions named in a cache: values, intervals, and the record of every example."""

import dataclasses
import json
import sys

import numpy as np
import pytest

from t5x_like.evaluation import comparison, records
from t5x_like.evaluation.examples import read_questions
from t5x_like.evaluation.task_metrics import Answer, TaskMetrics
from t5x_like.text_metrics.bootstrap import mean_interval, wilson
from tests.evaluation import tasks

EXACT = tasks.named(tasks.METRICS + "answers:exact_match")


def record_of(cache, answer_texts, log_probs=None, stops=(), step=0):
    """Returns the record of answer texts, one or several per example."""
    samples = [[one] if isinstance(one, str) else one for one in answer_texts]
    questions = read_questions(cache, seq2seq=False)
    answers = [
        Answer([tuple(tasks.ids_of(text).tolist()) for text in texts], scores)
        for texts, scores in zip(samples, log_probs or [()] * len(samples), strict=True)
    ]
    task_metrics = TaskMetrics.from_cache(cache, stops, num_samples=max(1, len(samples[0])))
    return task_metrics.make_record(cache.task, step, {"split": "validation"}, questions, answers)


def test_a_record_is_complete_and_is_read_back(tmp_path):
    cache = tasks.write_pairs(tmp_path, metrics=[EXACT])
    record = record_of(cache, ["yes", "no", "no!", "maybe", "no"], step=7)
    assert record["metrics"] == {"exact_match": 80.0} and record["count"] == 5
    low, high = record["intervals"]["exact_match"]
    assert (low, high) == pytest.approx([100 * x for x in wilson(4, 5)]) and 0 < low < 80 < high < 100
    assert [one["values"]["exact_match"] for one in record["examples"]] == [100, 100, 0, 100, 100]
    third = record["examples"][2]
    assert (third["number"], third["inputs"], third["target"]["text"]) == (2, "def?", "yes")
    assert third["predictions"] == [{"text": "no!", "value": "no!"}]
    path = records.record_path(tmp_path / "out", "pairs", 7)
    temporary = records.write_temporary(path, record)
    assert not path.exists()
    records.publish(temporary)
    assert records.read(path, record["settings"]) == json.loads(json.dumps(record))
    assert records.read(path, {"split": "test"}) is None
    path.write_bytes(path.read_bytes()[:40])
    with pytest.warns(UserWarning, match="7.json is not a record"):
        assert records.read(path, record["settings"]) is None


def test_postprocessing_sees_the_example_and_texts_end_at_a_stop(tmp_path):
    answers = tasks.named("t5x_like.text_metrics.postprocess:select_answers")
    examples = [tasks.pair("q", "one", answers=["one", "1"]), tasks.pair("r", "two", answers=["two", "2"])]
    cache = tasks.write(tmp_path, "qa", examples, [tasks.named(tasks.METRICS + "answers:squad")], answers)
    record = record_of(cache, ["1\nmore", "three"], stops=("\n",))
    assert record["metrics"] == {"em": 50.0, "f1": 50.0}
    assert record["examples"][0]["target"]["value"] == ["one", "1"]
    assert [one["predictions"][0]["text"] for one in record["examples"]] == ["1", "three"]


def test_choices_are_ranked_by_their_scores(tmp_path):
    ranks = tasks.named(tasks.METRICS + "likelihood:rank_classification")
    cache = tasks.write_pairs(tmp_path, metrics=[ranks], choices=["yes", "no", "maybe"])
    log_probs = [(-1, -2, -9), (-1, -2, -9), (-3, -3.5, -9), (-4, -4, -5), (-1, -0.5, -9)]
    record = record_of(cache, [[]] * 5, log_probs)
    assert record["metrics"]["accuracy"] == pytest.approx(60)  # correct: the first, third and last
    assert record["metrics"]["accuracy_normalised"] == pytest.approx(80)  # "maybe" has the highest likelihood per byte
    assert [one["values"]["accuracy"] for one in record["examples"]] == [100, 0, 100, 0, 100]
    assert record["examples"][3]["scored"][2] == {
        "text": "maybe",
        "right": True,
        "log_prob": -5,
        "tokens": 6,
        "bytes": 5,
    }


def test_the_likelihood_of_targets_is_scored(tmp_path):
    bits = tasks.named(tasks.METRICS + "likelihood:bits_per_byte")
    cache = tasks.write_pairs(tmp_path, metrics=[bits])
    log_probs = [(-np.log(2) * len(target),) for _, target in tasks.PAIRS]
    assert record_of(cache, [[]] * 5, log_probs)["metrics"]["bits_per_byte"] == pytest.approx(1)


def test_pass_at_k_gets_all_samples_and_other_metrics_the_first(tmp_path):
    metrics = [tasks.named(tasks.METRICS + "sampling:pass_at_k", k=[1, 2]), EXACT]
    cache = tasks.write_pairs(tmp_path, metrics=metrics)
    record = record_of(cache, [["yes", "x"], ["x", "no"], ["x", "x"], ["maybe", "maybe"], ["x", "no"]])
    assert record["metrics"] == {"pass@1": 50.0, "pass@2": 80.0, "exact_match": 40.0}
    with pytest.raises(ValueError, match=r"'pairs': metric pass_at_k has k=\[1, 2\], num_samples=1; draw at least 2"):
        TaskMetrics.from_cache(cache)


def test_consent_to_run_programs_is_asked_for_before_answers_are_generated(tmp_path, monkeypatch):
    monkeypatch.delenv("T5X_LIKE_ALLOW_EXECUTION", raising=False)
    programs = tasks.named(tasks.METRICS + "execution:human_eval", k=1)
    cache = tasks.write_pairs(tmp_path, metrics=[programs])
    with pytest.raises(PermissionError, match="T5X_LIKE_ALLOW_EXECUTION=1"):
        TaskMetrics.from_cache(cache)


def test_a_duplicate_name_gets_the_metric_as_prefix(tmp_path):
    same = tasks.named(tasks.METRICS + "answers:number_match")
    cache = tasks.write(tmp_path, "sums", [tasks.pair("1+1", "2"), tasks.pair("2+2", "4")], [EXACT, same])
    values = record_of(cache, ["2.", "4"])["metrics"]
    assert values == {"exact_match": 50.0, "number_match/exact_match": 100.0, "answered": 100.0}


@pytest.mark.parametrize(
    "function, message",
    [
        ("nowhere_at_all:metric", "the metric nowhere_at_all:metric cannot be imported .*plain Python"),
        (tasks.METRICS + "answers:gone", "answers:gone cannot be imported"),
        ("brings_tensorflow:metric", "brings_tensorflow:metric imports tensorflow; metrics run during training"),
    ],
)
def test_metrics_that_cannot_be_imported_raise(tmp_path, monkeypatch, function, message):
    # A fake TensorFlow: the check is only whether it is loaded.
    (tmp_path / "brings_tensorflow.py").write_text("import tensorflow\ndef metric(targets, predictions): return {}\n")
    (tmp_path / "tensorflow.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("tensorflow", "brings_tensorflow"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setenv("T5X_LIKE_TRUST", "nowhere_at_all,brings_tensorflow")
    cache = tasks.write_pairs(tmp_path, metrics=[tasks.named(function)])
    with pytest.raises(ValueError, match=f"task 'pairs': .*{message}"):
        TaskMetrics.from_cache(cache)
    for name in ("tensorflow", "brings_tensorflow"):
        sys.modules.pop(name, None)


HUMAN_EVAL = tasks.METRICS + "execution:human_eval"


@pytest.mark.parametrize(
    "entry, message",
    [
        (
            tasks.named("subprocess:call"),
            "subprocess:call is named by the token cache, and neither in .*T5X_LIKE_TRUST",
        ),
        (tasks.named("os:system"), "os:system is named by the token cache"),
        (tasks.named("brings_code:metric"), "brings_code:metric is named by the token cache"),
        (tasks.named("t5x_like.text_metrics_of_mine:metric"), "named by the token cache"),
        (tasks.named(tasks.METRICS + "execution:sys.exit"), "is not a function that t5x_like.* defines"),
        (
            tasks.named(tasks.METRICS + "execution:passes_tests"),
            r"has the parameters problem, .*\(targets, predictions\)",
        ),
        (
            tasks.named(HUMAN_EVAL, allow_execution=True),
            "has the option allow_execution .*only the environment or the caller",
        ),
        ({"function": 3, "options": {}}, "is not the entry of a metric"),
        ({"function": HUMAN_EVAL}, "is not the entry of a metric"),
    ],
)
def test_a_cache_names_no_code_and_gives_no_consent(tmp_path, monkeypatch, entry, message):
    (tmp_path / "brings_code.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    cache = tasks.write_pairs(tmp_path, metrics=[entry])
    for module in (cache.module, "t5x_like.tasks.pretraining"):
        with pytest.raises(ValueError, match=f"task 'pairs': .*{message}"):
            TaskMetrics.from_cache(dataclasses.replace(cache, module=module))


def test_a_cache_names_functions_of_the_project_of_its_task(tmp_path, monkeypatch):
    for name in ("own_tasks", "own_metrics"):
        (tmp_path / f"{name}.py").write_text("def metric(targets, predictions): return {'own': 1.0}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    cache = tasks.write_pairs(
        tmp_path, metrics=[tasks.named(f"{name}:metric") for name in ("own_tasks", "own_metrics")]
    )
    assert len(TaskMetrics.from_cache(dataclasses.replace(cache, module="own_tasks")).metrics) == 2
    with pytest.raises(ValueError, match="set T5X_LIKE_TRUST=own_tasks"):
        TaskMetrics.from_cache(cache)


def test_a_metric_that_fails_is_named(tmp_path):
    cache = tasks.write_pairs(tmp_path, metrics=[tasks.named("tests.evaluation.tasks:breaks")])
    with pytest.raises(RuntimeError, match="metric breaks: ZeroDivisionError: a metric's own fault"):
        record_of(cache, ["x"] * 5)


def test_records_of_the_same_examples_are_compared_in_pairs(tmp_path):
    macro = tasks.named(tasks.METRICS + "labels:macro_f1")
    examples = [tasks.pair(f"q{i}", "yes" if i % 2 else "no") for i in range(40)]
    cache = tasks.write(tmp_path, "many", examples, [EXACT, macro])
    right = [example["targets_pretokenized"] for example in examples]
    better, worse = record_of(cache, right[:36] + ["x"] * 4), record_of(cache, right[:20] + ["x"] * 20, step=1)
    differences = comparison.compare(better, worse, tasks.__name__)
    one = differences["exact_match"]
    assert (one["value"], one["against"], one["difference"]) == (90, 50, 40)
    values = [[e["values"]["exact_match"] for e in record["examples"]] for record in (better, worse)]
    assert (one["low"], one["high"]) == mean_interval(np.subtract(*values))
    assert 20 < one["low"] < 40 < one["high"] < 60
    assert differences["macro_f1"]["low"] < differences["macro_f1"]["difference"] < differences["macro_f1"]["high"]
    # A record compared with itself has no difference, because both use the same resampled examples.
    for one in comparison.compare(worse, worse, tasks.__name__).values():
        assert one["difference"] == one["low"] == one["high"] == 0
    with pytest.raises(ValueError, match="the 40 examples of task 'many' at step 0 differ from the 5 of task 'pairs'"):
        comparison.compare(better, record_of(tasks.write_pairs(tmp_path), ["x"] * 5), tasks.__name__)

"""Evaluation during training: steps continue while metrics run, results are logged under their step, failures are raised."""

import json
import os
import signal
import threading
import types
from pathlib import Path

import jax
import pytest

from t5x_like import checkpoints, interrupts, optimizers, partitioning, writers
from t5x_like.data import rows
from t5x_like.data.rows.chat import PackedConversations
from t5x_like.evaluation.background import BackgroundScorer
from t5x_like.evaluation.task_evaluation import TaskEvaluation
from t5x_like.objectives.lm import LanguageModel
from tests import tiny
from tests.evaluation import tasks

EXACT = tasks.named(tasks.METRICS + "answers:exact_match")
WAITS = tasks.named("tests.evaluation.tasks:waits")
MESH = partitioning.make_mesh(devices=jax.devices()[:1])


class ScriptedEvaluator:
    """Returns known answers; its metrics wait for an event or fail."""

    settings = types.MappingProxyType({"split": "validation"})

    def __init__(self, task, event=None, failure=None):
        self.task, self.event, self.failure = task, event, failure

    def __call__(self, params):
        return params

    def make_record(self, answers, step):
        if self.event is not None:
            assert self.event.wait(60)
        if self.failure is not None:
            raise self.failure
        return {"task": self.task, "step": step, "settings": self.settings, "metrics": {"answer": answers}}


def test_results_are_reported_in_order_when_finished(tmp_path):
    event, reported = threading.Event(), []
    with BackgroundScorer(tmp_path) as scorer:
        scorer.submit(3, ScriptedEvaluator("slow", event), 0.5)
        scorer.submit(4, ScriptedEvaluator("fast"), 0.7)
        scorer.collect(lambda *one: reported.append(one))
        assert not reported and not list(tmp_path.rglob("*.json"))
        event.set()
        collected = scorer.collect(lambda *one: reported.append(one), wait=True)
    assert reported == [(3, {"slow/answer": 0.5}), (4, {"fast/answer": 0.7})]
    assert collected == {"slow/answer": 0.5, "fast/answer": 0.7}
    assert json.loads((tmp_path / "evaluations/slow/3.json").read_text())["metrics"] == {"answer": 0.5}


def test_a_failure_names_its_task_and_step(tmp_path):
    with BackgroundScorer(tmp_path) as scorer:
        scorer.submit(3, ScriptedEvaluator("broken", failure=ValueError("no good")), 0)
        with pytest.raises(RuntimeError, match="evaluation of task 'broken' at step 3 failed: ValueError: no good"):
            scorer.collect(print, wait=True)
    assert not list(tmp_path.rglob("*.json"))


def test_records_after_the_checkpoint_are_dropped(tmp_path):
    with BackgroundScorer(tmp_path) as scorer:
        for step in (2, 4, 6):
            scorer.submit(step, ScriptedEvaluator("one"), step)
        scorer.collect(lambda *_: None, wait=True)
    with BackgroundScorer(tmp_path, first=4) as scorer:
        assert scorer.has_record(4, ScriptedEvaluator("one")) and not scorer.has_record(6, ScriptedEvaluator("one"))
    assert sorted(path.stem for path in tmp_path.rglob("*.json")) == ["2", "4"]


def arguments(root, run_dir, *metrics, model=tiny.decoder, rows_type=PackedConversations, lengths=(48,), **changes):
    """Returns arguments of trainer.train for a run on questions and answers, evaluated on the same task."""
    cache = tasks.write_pairs(root, metrics=metrics) if not (root / "pairs").exists() else None
    cache = tasks.TokenCache("pairs", "validation", root=str(root)) if cache is None else cache
    model = model()
    small = dict(
        run_dir=str(run_dir),
        model=model.clone(embed=model.embed.clone(vocab_size=384)),
        objective=LanguageModel(),
        optimizer=optimizers.adamw(1e-2),
        train_rows=rows_type(cache, *lengths),
        evaluations=(TaskEvaluation(cache, max_new_tokens=8, batch_size=4),),
        steps=6,
        batch_size=4,
        mesh=MESH,
        log_every=1,
        eval_every=3,
        checkpoint_every=6,
    )
    return small | changes


def lines(run_dir) -> list[dict]:
    return [json.loads(line) for line in (Path(run_dir) / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    "kind, rows_type, lengths",
    [(tiny.decoder, PackedConversations, (48,)), (tiny.encoder_decoder, rows.PackedExamples, (48, 48))],
)
def test_a_trained_model_gives_the_answers(tmp_path, kind, rows_type, lengths):
    run = arguments(tmp_path, tmp_path / "run", EXACT, model=kind, rows_type=rows_type, lengths=lengths)
    last = tiny.train(**run | dict(steps=60, eval_every=60, checkpoint_every=60))
    assert last["eval_tasks/pairs/exact_match"] == 100
    record = json.loads((tmp_path / "run/evaluations/pairs/60.json").read_text())
    answers = [(one["inputs"], one["predictions"][0]["text"]) for one in record["examples"]]
    assert answers == tasks.PAIRS and record["step"] == 60
    # A finished run evaluates again only if the record is missing.
    path, before = tmp_path / "run/evaluations/pairs/60.json", lines(tmp_path / "run")
    written = path.stat().st_mtime_ns
    tiny.train(**run | dict(steps=60, eval_every=60))
    assert path.stat().st_mtime_ns == written and lines(tmp_path / "run") == before
    if kind is tiny.decoder:
        path.unlink()
        tiny.train(**run | dict(steps=60, eval_every=60))
        assert json.loads(path.read_text())["examples"] == record["examples"]


def test_steps_continue_while_a_metric_runs(tmp_path, monkeypatch):
    """The metric of step 3 returns after step 5 is logged; its result is logged under step 3."""
    tasks.RELEASED.clear()
    write = writers.RunWriter.write

    def write_and_release(self, step, scalars):
        write(self, step, scalars)
        if step == 5 and "loss" in scalars:
            tasks.RELEASED.set()

    monkeypatch.setattr(writers.RunWriter, "write", write_and_release)
    tiny.train(**arguments(tmp_path, tmp_path / "run", EXACT, WAITS))
    order = [(line["step"], "loss" in line) for line in lines(tmp_path / "run")]
    assert order.index((3, False)) > order.index((5, True))
    assert [step for step, is_loss in order if not is_loss] == [3, 6]


def test_a_stopped_run_waits_for_its_evaluations(tmp_path, monkeypatch):
    """The signal arrives at step 4, while the metric of step 3 waits until the state is saved."""
    tasks.RELEASED.clear()
    write, save = writers.RunWriter.write, checkpoints.Checkpointer.save

    def write_and_stop(self, step, scalars):
        write(self, step, scalars)
        if step == 4 and "loss" in scalars:
            os.kill(os.getpid(), signal.SIGTERM)

    def save_and_release(self, *args, **kwargs):
        save(self, *args, **kwargs)
        tasks.RELEASED.set()

    monkeypatch.setattr(writers.RunWriter, "write", write_and_stop)
    monkeypatch.setattr(checkpoints.Checkpointer, "save", save_and_release)
    with pytest.raises(interrupts.Interrupted, match=r"stopped after step \d of 20 and saved"):
        tiny.train(**arguments(tmp_path, tmp_path / "run", EXACT, WAITS, steps=20))
    assert checkpoints.latest_step(tmp_path / "run" / "checkpoints") < 6
    assert (tmp_path / "run/evaluations/pairs/3.json").exists()
    assert [line["step"] for line in lines(tmp_path / "run") if "eval_tasks/pairs/waited" in line] == [3]


def test_a_failing_metric_stops_the_run_and_is_named(tmp_path):
    broken = tasks.named("tests.evaluation.tasks:breaks")
    with pytest.raises(RuntimeError, match=r"task 'pairs' at step 3 failed: .*metric breaks: ZeroDivisionError"):
        tiny.train(**arguments(tmp_path, tmp_path / "run", broken))


def test_bad_evaluations_raise_before_anything_is_written(tmp_path):
    train_arguments = arguments(tmp_path, tmp_path / "run", EXACT)
    with pytest.raises(ValueError, match="tasks name pairs more than once"):
        tiny.train(**train_arguments | dict(evaluations=train_arguments["evaluations"] * 2))
    examples = [{"targets": tasks.ids_of("x"), "inputs": tasks.ids_of("y")}]
    other = tasks.write(tmp_path, "other", examples, [EXACT], vocabulary=tasks.ByteVocabulary(extra_ids=7))
    with pytest.raises(ValueError, match="task 'other' has the vocabulary bytes/7, the training rows have bytes/125"):
        tiny.train(**train_arguments | dict(evaluations=(TaskEvaluation(other),)))
    assert not (tmp_path / "run").exists()

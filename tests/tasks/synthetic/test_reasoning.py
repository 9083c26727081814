"""Tasks over reasoning-gym's datasets if it is installed, and the error message if it is not."""

import builtins
import inspect

import pytest

from t5x_like.cli.gin import runtime
from t5x_like.text_metrics import reasoning


def test_a_missing_package_is_named_with_the_remedy(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "reasoning_gym":
            raise ModuleNotFoundError("No module named 'reasoning_gym'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match="pip install reasoning-gym --no-deps"):
        reasoning.verify([0], ["1"], dataset="chain_sum", size=1, seed=0)


def test_answers_are_scored_by_the_verifier_and_splits_are_disjoint():
    pytest.importorskip("reasoning_gym")
    import seqio

    from t5x_like.tasks.synthetic import reasoning as tasks

    tasks.define("reasoning_test", "chain_sum", size=200, options={"max_terms": 3})
    task = seqio.TaskRegistry.get("reasoning_test")
    examples = {s: list(task.get_dataset(None, s, shuffle=False).as_numpy_iterator()) for s in ("train", "validation")}
    questions = {split: {one["question"] for one in rows} for split, rows in examples.items()}
    assert questions["validation"] and not questions["train"] & questions["validation"]
    (metric,) = task.metric_fns
    targets = [task.postprocessor("", example=one, is_target=True) for one in examples["validation"]]
    answers = [one["answer"].decode() for one in examples["validation"]]
    assert metric(targets, answers) == {"verified": 100.0}
    assert metric(targets, ["none" for _ in answers])["verified"] < 50


def test_answers_are_evaluated_in_a_sandbox(tmp_path, monkeypatch):
    """Some verifiers call `eval` on an answer."""
    gym = pytest.importorskip("reasoning_gym")
    monkeypatch.setattr(reasoning, "SECONDS", 1.0)
    right = gym.create_dataset("countdown", size=3, seed=0)[2]["answer"]
    mark = tmp_path / "mark"
    texts = [f"__import__('pathlib').Path('{mark}').touch()", "9**9**9**9", right]
    made = reasoning.verify([0, 1, 2], texts, dataset="countdown", size=3, seed=0)
    assert 100 / 3 <= made["verified"] < 40 and not mark.exists()
    assert reasoning.verify([2], [right], dataset="countdown", size=3, seed=0) == {"verified": 100}


def test_an_unknown_dataset_is_refused():
    pytest.importorskip("reasoning_gym")
    with pytest.raises(ValueError, match="dataset='chain_sums' is none of reasoning-gym's: .*chain_sum"):
        reasoning.create_dataset("chain_sums", 1, 0)
    with pytest.raises(ValueError, match="refuses options"):
        reasoning.create_dataset("chain_sum", 1, 0, {"no_such": 1})


def test_the_arguments_of_the_gin_file_fit_define():
    from t5x_like.tasks.synthetic import reasoning as tasks

    config = runtime.parse(["tasks/reasoning.gin"], ["--gin.DATASET='chain_sum'"])
    module, arguments = config.bind("token_cache.TokenCache")(task="reasoning", split="train").definition
    assert module == tasks.__name__ and config.evaluate("%TASK") == "reasoning"
    assert inspect.signature(tasks.define).bind("reasoning", **arguments).arguments["dataset"] == "chain_sum"

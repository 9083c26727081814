"""reasoning-gym's datasets as tasks, where it is installed, and what is said where it is not."""

import builtins
import inspect

import pytest

from t5x_like.cli.gin import runtime
from t5x_like.text_metrics import reasoning


def test_without_the_package_the_remedy_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "reasoning_gym":
            raise ModuleNotFoundError("No module named 'reasoning_gym'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match="pip install reasoning-gym --no-deps"):
        reasoning.verify([0], ["1"], dataset="chain_sum", size=1, seed=0)


def test_an_entry_is_judged_by_its_verifier_and_splits_are_disjoint():
    pytest.importorskip("reasoning_gym")
    import seqio

    from t5x_like.tasks.synthetic import reasoning as tasks

    tasks.define("reasoning_test", "chain_sum", size=200, options={"max_terms": 3})
    task = seqio.TaskRegistry.get("reasoning_test")
    made = {s: list(task.get_dataset(None, s, shuffle=False).as_numpy_iterator()) for s in ("train", "validation")}
    questions = {split: {one["question"] for one in rows} for split, rows in made.items()}
    assert questions["validation"] and not questions["train"] & questions["validation"]
    (metric,) = task.metric_fns
    targets = [task.postprocessor("", example=one, is_target=True) for one in made["validation"]]
    answers = [one["answer"].decode() for one in made["validation"]]
    assert metric(targets, answers) == {"verified": 100.0}
    assert metric(targets, ["none" for _ in answers])["verified"] < 50


def test_a_dataset_that_is_not_there_is_refused():
    pytest.importorskip("reasoning_gym")
    with pytest.raises(ValueError, match="dataset='chain_sums' is none of reasoning-gym's: .*chain_sum"):
        reasoning.create_dataset("chain_sums", 1, 0)
    with pytest.raises(ValueError, match="refuses options"):
        reasoning.create_dataset("chain_sum", 1, 0, {"no_such": 1})


def test_the_gin_file_gives_what_define_takes():
    from t5x_like.tasks.synthetic import reasoning as tasks

    config = runtime.parse(["tasks/reasoning.gin"], ["--gin.DATASET='chain_sum'"])
    arguments = config.configured("token_cache.TokenCache")(task="reasoning", split="train").arguments
    assert inspect.signature(tasks.define).bind("reasoning", **arguments).arguments["dataset"] == "chain_sum"

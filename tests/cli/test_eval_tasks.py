"""The way a user goes, without TensorFlow: train with evaluations, ask any checkpoint again, compare two runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.evaluation import tasks

REPOSITORY = Path(__file__).parents[2]
FILES = ("sizes/llama/tiny", "objectives/instruction", "optimizers/adamw", "runs/pretrain")
# Commands, one after the other in one process, in which TensorFlow cannot be imported.
COMMANDS = """
import json, sys
for name in ("tensorflow", "seqio", "tensorflow_datasets", "tensorflow_text"):
    sys.modules[name] = None
from t5x_like.cli.main import main
for argv in json.loads(sys.argv[1]):
    print("exit", main(argv), flush=True)
"""


def commands(root, *given):
    """(exit codes, lines printed, messages) of several commands."""
    environment = os.environ | {"T5X_LIKE_CACHE": str(root), "PYTHONPATH": str(REPOSITORY)}
    environment["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
    program = [sys.executable, "-c", COMMANDS, json.dumps([[str(x) for x in argv] for argv in given])]
    made = subprocess.run(program, env=environment, cwd=root, capture_output=True, text=True, timeout=400)
    said = made.stdout.splitlines()
    return [line for line in said if line.startswith("exit")], said, made.stderr


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    root = tmp_path_factory.mktemp("eval_tasks")
    exact = tasks.named(tasks.METRICS + "answers:exact_match")
    for task, split in (("pairs", "train"), ("pairs", "validation"), ("others", "validation")):
        tasks.write_pairs(root, task, [exact], split)
    macros = dict(TASK="pairs", VOCAB_SIZE=384, LENGTH=48, STEPS=50, WARMUP_STEPS=1, LEARNING_RATE=0.01, BATCH_SIZE=2)
    macros |= {"RUN_DIR": root / "run", "EVAL_TASKS": "('pairs',)", "EVAL_NEW_TOKENS": 8}
    macros |= {"trainer.train.checkpoint_every": 1, "trainer.train.keep_last": 50, "trainer.train.eval_every": 50}
    train = ["train", *(f"--gin_file={name}.gin" for name in FILES), *(f"--gin.{k}={v}" for k, v in macros.items())]
    ask = ["eval", f"--run_dir={root / 'run'}", "--tasks=pairs,others", "--max_new_tokens=8", f"--out={root / 'out'}"]
    again = [*ask, "--json", "--examples=4", f"--against={root / 'run'}", "--against_step=1"]
    codes, said, messages = commands(root, train, ask, again, [*ask[:2], "--tasks=gone"])
    assert codes == ["exit 0", "exit 0", "exit 0", "exit 2"], messages
    return root, said, messages


def test_training_leaves_the_metrics_and_the_records(done):
    root, _, messages = done
    record = json.loads((root / "run/evaluations/pairs/50.json").read_text())
    lines = [json.loads(line) for line in (root / "run/metrics.jsonl").read_text().splitlines()]
    (line,) = [line for line in lines if "eval_tasks/pairs/exact_match" in line]
    assert line == {"step": 50, "eval_tasks/pairs/exact_match": record["metrics"]["exact_match"]}
    assert record["metrics"]["exact_match"] == 100 and record["count"] == 5
    assert "step 50: eval_tasks/pairs/exact_match 100.0000" in messages


def test_a_table_has_every_task_with_its_interval(done):
    root, said, _ = done
    table = [line for line in said if "exact_match" in line and "│" in line]
    assert [line.split("│")[1].strip() for line in table] == ["pairs", "others"]
    assert all("100.00" in line and "56.55 to 100.00" in line for line in table)  # Wilson's interval of 5 of 5
    asked = json.loads((root / "out/others/50.json").read_text())
    assert asked["settings"]["examples"] in (4, None) and asked["step"] == 50


def test_two_steps_are_compared_on_the_same_examples(done):
    root, said, _ = done
    made = {one["task"]: one for one in (json.loads(line) for line in said if line.startswith("{"))}
    assert set(made) == {"pairs", "others"}
    for task, one in made.items():
        metric = one["metrics"]["exact_match"]
        assert one["step"] == 50 and metric["value"] == 100 and metric["against"] == 0
        assert metric["difference"] == metric["low"] == metric["high"] == 100
        assert json.loads((root / f"out/against/{task}/1.json").read_text())["count"] == 4


def test_a_task_that_is_not_there_is_said(done):
    assert "no token cache of task 'gone'" in done[2]

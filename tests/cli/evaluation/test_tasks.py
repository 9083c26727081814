"""Task evaluation from the command line, without TensorFlow: during training, of a checkpoint, and of two runs."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from t5x_like.cli import setup
from t5x_like.cli.evaluation import tasks as command
from t5x_like.cli.gin import runtime
from t5x_like.cli.gin.runtime import ConfigError
from tests.evaluation import tasks

REPOSITORY = Path(__file__).parents[3]
FILES = ("sizes/llama/tiny", "objectives/instruction", "optimizers/adamw", "runs/pretrain")
# Runs commands in one process, in which TensorFlow cannot be imported.
COMMANDS = """
import json, sys
for name in ("tensorflow", "seqio", "tensorflow_datasets", "tensorflow_text"):
    sys.modules[name] = None
from t5x_like.cli.main import main
for argv in json.loads(sys.argv[1]):
    print("exit", main(argv), flush=True)
"""


def commands(root, *argvs):
    """(exit codes, lines printed, messages) of several commands."""
    environment = os.environ | {"T5X_LIKE_CACHE": str(root), "PYTHONPATH": str(REPOSITORY)}
    environment["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
    program = [sys.executable, "-c", COMMANDS, json.dumps([[str(x) for x in argv] for argv in argvs])]
    process = subprocess.run(program, env=environment, cwd=root, capture_output=True, text=True, timeout=400)
    printed = process.stdout.splitlines()
    return [line for line in printed if line.startswith("exit")], printed, process.stderr


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    root = tmp_path_factory.mktemp("eval_tasks")
    exact = tasks.named(tasks.METRICS + "answers:exact_match")
    for task, split in (("pairs", "train"), ("pairs", "validation"), ("others", "validation")):
        tasks.write_pairs(root, task, [exact], split)
    macros = dict(TASK="pairs", VOCAB_SIZE=384, LENGTH=48, STEPS=50, WARMUP_STEPS=1, LEARNING_RATE=0.01, BATCH_SIZE=2)
    macros |= {"RUN_DIR": root / "run", "EVAL_TASKS": "('pairs',)", "EVAL_NEW_TOKENS": 8}
    macros |= {"trainer.Checkpointing.every": 1, "trainer.Checkpointing.keep_last": 50, "trainer.Evaluation.every": 50}
    train = ["train", *(f"--gin_file={name}.gin" for name in FILES), *(f"--gin.{k}={v}" for k, v in macros.items())]
    evaluate = [
        "eval",
        f"--run_dir={root / 'run'}",
        "--tasks=pairs,others",
        "--max_new_tokens=8",
        f"--out={root / 'out'}",
    ]
    compare = [*evaluate, "--json", "--examples=4", f"--against={root / 'run'}", "--against_step=1"]
    compare += [
        "--gin_file=decoding/penalties.gin",
        "--gin.REPETITION_PENALTY=1.0",
        "--gin.NO_REPEAT_NGRAM=40",
    ]  # neutral
    foreign = root / "foreign"
    foreign.mkdir()
    (foreign / "config.gin").write_text("from __gin__ import dynamic_registration\nimport antigravity\n")
    refused = [[*evaluate[:2], "--tasks=gone"], [*evaluate[:2], "--gin_file=gone.gin"]]
    refused += [["eval", f"--run_dir={foreign}"], ["infer", f"--run_dir={foreign}", "--prompt=x"]]
    refused += [["hf", "export", foreign, f"--out={root / 'exported'}"]]
    codes, printed, messages = commands(root, train, evaluate, compare, *refused)
    assert codes == ["exit 0"] * 3 + ["exit 2"] * len(refused), messages
    return root, printed, messages


def test_training_writes_metrics_and_records(results):
    root, _, messages = results
    record = json.loads((root / "run/evaluations/pairs/50.json").read_text())
    lines = [json.loads(line) for line in (root / "run/metrics.jsonl").read_text().splitlines()]
    (line,) = [line for line in lines if "eval_tasks/pairs/exact_match" in line]
    assert line == {"step": 50, "eval_tasks/pairs/exact_match": record["metrics"]["exact_match"]}
    assert record["metrics"]["exact_match"] == 100 and record["count"] == 5
    assert "step 50: eval_tasks/pairs/exact_match 100.0000" in messages


def test_the_table_has_every_task_with_its_interval(results):
    root, printed, _ = results
    table = [line for line in printed if "exact_match" in line and "│" in line]
    assert [line.split("│")[1].strip() for line in table] == ["pairs", "others"]
    assert all("100.00" in line and "56.55 to 100.00" in line for line in table)  # Wilson's interval of 5 of 5
    record = json.loads((root / "out/others/50.json").read_text())
    assert record["settings"]["examples"] in (4, None) and record["step"] == 50


def test_two_steps_are_compared_on_the_same_examples(results):
    root, printed, _ = results
    by_task = {one["task"]: one for one in (json.loads(line) for line in printed if line.startswith("{"))}
    assert set(by_task) == {"pairs", "others"}
    for task, one in by_task.items():
        metric = one["metrics"]["exact_match"]
        assert one["step"] == 50 and metric["value"] == 100 and metric["against"] == 0
        assert metric["difference"] == metric["low"] == metric["high"] == 100
        record = json.loads((root / f"out/against/{task}/1.json").read_text())
        processors = "[RepetitionPenalty(penalty=1.0), NoRepeatNGram(size=40)]"
        assert record["count"] == 4 and record["settings"]["processors"] == processors


def test_a_module_of_the_caller_has_no_arguments_of_the_run():
    config = runtime.parse(["tasks/files.gin"], ["--gin.TRAIN_FILES=/data/*.txt"])
    assert command.cache_of(config, "files", "train", None).definition[0] == "t5x_like.tasks.custom.files"
    assert command.cache_of(config, "files", "train", "own.module").definition == ("own.module", {})


def test_an_unknown_task_or_file_raises(results):
    assert "no token cache of task 'gone'" in results[2] and "there is no gin file 'gone.gin'" in results[2]


def test_no_command_imports_modules_for_a_foreign_run(results):
    assert results[2].count("this run imports antigravity, which is not part of t5x_like") == 3


def test_a_module_that_does_not_exist_is_refused(tmp_path):
    args = argparse.Namespace(module="no_such_module")
    with pytest.raises(ConfigError, match="--module=no_such_module: there is no such module"):
        setup.open_from_flags(args, str(tmp_path), None)

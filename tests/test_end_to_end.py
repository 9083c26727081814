"""The commands from end to end: train, evaluate, infer, and their error messages."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
FILES = ("sizes/llama/tiny.gin", "objectives/causal_lm.gin", "optimizers/adamw.gin", "runs/pretrain.gin")


def command(root, *arguments):
    environment = os.environ | {"T5X_LIKE_CACHE": str(root), "PYTHONPATH": str(REPOSITORY)}
    program = [sys.executable, "-m", "t5x_like", *arguments]
    return subprocess.run(program, env=environment, cwd=root, capture_output=True, text=True, timeout=300)


def flags(run_dir, **macros):
    macros = dict(TASK="tiny", VOCAB_SIZE=384, LENGTH=32, STEPS=40, WARMUP_STEPS=4, RUN_DIR=run_dir) | macros
    return [f"--gin_file={name}" for name in FILES] + [f"--gin.{name}={value}" for name, value in macros.items()]


@pytest.fixture(scope="module")
def run_dir(tiny_root, tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs") / "tiny"
    made = command(tiny_root, "train", *flags(directory))
    assert made.returncode == 0, made.stderr
    assert "tokens/s" in made.stderr and "MFU" in made.stderr and "data wait" in made.stderr
    return directory


def test_eval_prints_the_metrics_of_any_split(tiny_root, run_dir):
    results = {}
    for split in ("train", "validation"):
        made = command(tiny_root, "eval", f"--run_dir={run_dir}", f"--split={split}")
        assert made.returncode == 0, made.stderr
        results[split] = json.loads(made.stdout.splitlines()[-1])
    assert results["train"]["split"] == "train" and results["train"]["step"] == 40
    for result in results.values():
        assert {"loss", "perplexity", "accuracy", "bits_per_byte"} <= set(result)
    assert results["train"]["loss"] != results["validation"]["loss"]


def test_infer_reads_lines_and_skips_those_already_done(tiny_root, run_dir, tmp_path):
    prompts, output = tmp_path / "prompts.jsonl", tmp_path / "made.jsonl"
    prompts.write_text('{"id": "a", "prompt": "def "}\n{"id": "b", "prompt": "class "}\n')
    arguments = ["infer", f"--run_dir={run_dir}", f"--input={prompts}", f"--output={output}", "--max_new_tokens=8"]
    first = command(tiny_root, *arguments)
    assert first.returncode == 0, first.stderr
    output.write_text(output.read_text().splitlines()[0] + "\n")
    assert command(tiny_root, *arguments).returncode == 0
    records = [json.loads(line) for line in output.read_text().splitlines()]
    assert [record["id"] for record in records] == ["a", "b"]
    assert all(record["completion"] for record in records)


def test_infer_samples_by_gin(tiny_root, run_dir):
    common = ["infer", f"--run_dir={run_dir}", "--prompt=def ", "--max_new_tokens=12"]
    sampling = ("--gin_file=decoding/top_p.gin", "--gin.TOP_P=0.99", "--gin.TEMPERATURE=3.0")
    greedy, sampled = (
        command(tiny_root, *common, *more) for more in ((), (*sampling, "--gin_file=decoding/penalties.gin"))
    )
    assert greedy.returncode == sampled.returncode == 0, sampled.stderr
    assert json.loads(greedy.stdout)["tokens"] != json.loads(sampled.stdout)["tokens"]


def test_cache_prints_the_folders(tiny_root, tmp_path):
    made = command(tiny_root, "cache", "--verify", *flags(tmp_path))
    assert made.returncode == 0, made.stderr
    assert len(re.findall(r"tiny/\w+ +120 ", made.stdout)) == 2 and str(tiny_root) in made.stdout


@pytest.mark.parametrize(
    "change, said",
    [
        (["--gin.STPES=3"], "STPES"),
        (["--gin.trainer.train.step=3"], "has no parameter 'step'"),
        (["--gin_file=runs/pretrian.gin"], "pretrain"),
        (["--gin.VOCAB_SIZE=100"], "vocab_size=100 is smaller than the 384 ids"),
        (["--gin.BATCH_SIZE=0"], "batch_size=0"),
        (["--gin.LENGTH=1"], "length=1 is too short"),
    ],
)
def test_mistakes_raise_before_anything_is_written(tiny_root, tmp_path, change, said):
    made = command(tiny_root, "train", *flags(tmp_path / "run"), *change)
    assert made.returncode == 2
    assert said in made.stderr and "Traceback" not in made.stderr
    assert not (tmp_path / "run").exists()


def test_an_unknown_task_error_lists_the_tasks(tiny_root, tmp_path):
    made = command(tiny_root, "train", *flags(tmp_path / "run", TASK="python_sauce_bytes"))
    assert made.returncode == 2 and "python_source_bytes" in made.stderr
    assert not (tmp_path / "run").exists()


def test_a_missing_run_raises(tiny_root, tmp_path):
    made = command(tiny_root, "infer", f"--run_dir={tmp_path}", "--prompt=x")
    assert made.returncode == 2 and "config.gin does not exist" in made.stderr

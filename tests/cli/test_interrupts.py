"""Ctrl-C reaches every process of a command, SIGTERM only the first: it ends in order, says how to resume, and resumes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


def start(folder: Path, *flags: str) -> subprocess.Popen:
    """Starts a command in a process group of its own."""
    paths = os.pathsep.join([str(folder), str(REPOSITORY)])
    environment = os.environ | {"PYTHONPATH": paths, "T5X_LIKE_CACHE": str(folder / "caches")}
    environment.pop("T5X_LIKE_CACHE_FLAGS", None)
    command = [sys.executable, "-m", "t5x_like", *flags]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=folder, env=environment, start_new_session=True, **pipes)


def interrupt(process: subprocess.Popen, number: int, said: str) -> None:
    """Sends a signal as a terminal (SIGINT) or `kill` (SIGTERM) does, and checks exit code and message."""
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number, errors
    assert errors.rstrip().endswith(f"t5x_like: {said}") and "Traceback" not in errors, errors


TASK = """
import functools, time
import seqio
import tensorflow as tf
from t5x_like.tasks import vocabularies

def texts(split, shuffle_files=False, seed=None):
    def generate():
        for number in range(60_000):
            yield {"targets": f"text {number} " * 20}
    return tf.data.Dataset.from_generator(generate, output_signature={"targets": tf.TensorSpec((), tf.string)})

seqio.TaskRegistry.add(
    "long", source=seqio.FunctionDataSource(texts, splits=["train"]),
    preprocessors=[seqio.preprocessors.tokenize, seqio.CacheDatasetPlaceholder()],
    output_features={"targets": seqio.Feature(vocabularies.BYTES, add_eos=False)}, metric_fns=[],
)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_cache_resumes(tmp_path, number):
    (tmp_path / "long_tasks.py").write_text(TASK)
    flags = ("cache", "--task=long", "--split=train", "--module=long_tasks", "--workers=2")
    process = start(tmp_path, *flags)
    caches = tmp_path / "caches"
    while not any(path.stat().st_size > 2**20 for path in caches.rglob("targets.tokens")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    interrupt(process, number, "stopped; the same command resumes after the last complete part")
    journal = next(caches.rglob("journal.jsonl"))
    parts = [json.loads(line.partition(" ")[2]) for line in journal.read_text().splitlines()]
    assert 0 < parts[-1]["documents"] < 60_000
    assert not list(caches.rglob("*.lock"))


def test_an_interrupted_clean_resumes(tmp_path):
    text = json.dumps({"text": "A sentence of a document that is read. " * 40}) + "\n"
    for number in range(8):
        (tmp_path / f"{number}.jsonl").write_text(text * (200 if number < 2 else 5000))
    (tmp_path / "steps.gin").write_text(
        "from __gin__ import dynamic_registration\nfrom t5x_like.cleaning import pipeline\n"
        "PIPELINE = @pipeline.Pipeline()\npipeline.Pipeline.steps = ()\n"
    )
    flags = ("clean", "--gin_file=steps.gin", "--input", "*.jsonl", "--out=clean", "--suffix=.jsonl", "--workers=2")
    process = start(tmp_path, *flags)
    while not list((tmp_path / "clean").glob(".work/report0/0.*")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    interrupt(process, signal.SIGINT, "stopped; the same command resumes after the last finished file")
    assert not (tmp_path / "clean" / "report.json").exists() and not (tmp_path / "clean" / ".lock").exists()
    finished = (tmp_path / "clean" / "0.jsonl").stat().st_mtime_ns
    process = start(tmp_path, *flags)
    assert process.wait() == 0, process.stderr.read()
    assert (tmp_path / "clean" / "0.jsonl").stat().st_mtime_ns == finished
    assert json.loads((tmp_path / "clean" / "report.json").read_text())["kept"] == 2 * 200 + 6 * 5000

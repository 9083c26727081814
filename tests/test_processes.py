"""Two processes, as on two hosts, train like one: each makes its own rows, and they save and resume together."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from t5x_like import checkpoints, locks
from tests.evaluation import tasks

REPOSITORY = Path(__file__).parents[1]
FILES = ("sizes/llama/tiny", "objectives/causal_lm", "optimizers/adamw", "meshes/fsdp", "runs/pretrain")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(root, run_dir, steps, processes, devices):
    """Starts `t5x_like train` in several processes."""
    flags = dict(TASK="tiny", VOCAB_SIZE=384, LENGTH=32, STEPS=steps, WARMUP_STEPS=2, RUN_DIR=run_dir)
    flags |= {"EVAL_TASKS": "('asked',)", "EVAL_NEW_TOKENS": 3}
    flags |= {"schedules.cosine.steps": 20, "trainer.train.log_every": 1, "trainer.Checkpointing.every": 1}
    command = ["train", *(f"--gin_file={name}.gin" for name in FILES)]
    return launch(root, [*command, *(f"--gin.{name}={value}" for name, value in flags.items())], processes, devices)


def launch(root, command, processes, devices):
    """Starts a command of t5x_like in several processes with several devices each."""
    command = [sys.executable, "-m", "t5x_like", *command]
    environment = os.environ | {"T5X_LIKE_CACHE": str(root), "PYTHONPATH": str(REPOSITORY)}
    environment["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    started, port = [], free_port()
    for index in range(processes):
        join = [f"--coordinator=127.0.0.1:{port}", f"--process_count={processes}", f"--process_index={index}"]
        more = join if processes > 1 else []
        started.append(
            subprocess.Popen([*command, *more], env=environment, cwd=root, stderr=subprocess.PIPE, text=True)
        )
    return started


def finish(started, code=0):
    """Waits for processes, and checks their exit codes."""
    said = [process.communicate(timeout=240)[1] for process in started]
    assert [process.returncode for process in started] == [code] * len(started), said


def train(root, run_dir, steps, processes, devices):
    """Trains to the end; returns the loss of every step."""
    finish(start(root, run_dir, steps, processes, devices))
    lines = [json.loads(line) for line in (Path(run_dir) / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def answers(run_dir, step):
    """The model's answer to every question."""
    record = json.loads((Path(run_dir) / f"evaluations/asked/{step}.json").read_text())
    return [one["predictions"][0]["text"] for one in record["examples"]]


def infer(root, run_dir, processes, devices):
    """The completions of prompts of several lengths, two samples of each; only the first process writes them."""
    output = Path(run_dir) / "infer.jsonl"
    prompts = ["ab", "a longer prompt, which is read in another piece", "x", "ab", "some more", "and", "the last"]
    flags = [
        f"--run_dir={run_dir}",
        f"--output={output}",
        "--gin_file=decoding/temperature.gin",
        "--gin.TEMPERATURE=1.0",
    ]
    flags += ["--max_new_tokens=12", "--batch_size=3", "--samples=2", "--stop=e", "--log_probs=1"]
    flags += [f"--prompt={prompt}" for prompt in prompts]
    finish(launch(root, ["infer", *flags], processes, devices))
    records = list(map(json.loads, output.read_text().splitlines()))
    return [(one["prompt"], [(s["tokens"], s["completion"]) for s in one["samples"]]) for one in records]


def harm_file_of_second_process(checkpoint):
    """Overwrites a file that the second process wrote; all files have checksums."""
    content = json.loads((checkpoint / "manifest.json").read_text())
    assert content["checksums"].keys() == content["files"].keys()
    path = max((checkpoint / "arrays" / "ocdbt.process_1").rglob("d/*"), key=lambda path: path.stat().st_size)
    path.write_bytes(bytes(path.stat().st_size))


def test_two_processes_train_stop_save_answer_and_resume_like_one(tiny_root, tmp_path):
    tasks.write_pairs(tiny_root, "asked")
    started, metrics = start(tiny_root, tmp_path / "two", 1000, processes=2, devices=1), tmp_path / "two/metrics.jsonl"
    while not metrics.exists() or metrics.read_text().count("\n") < 3:
        assert started[0].poll() is None, started[0].stderr.read()
        time.sleep(0.01)
    assert locks.find_holder(tmp_path / "two/lock").pid == started[0].pid
    for process in start(tiny_root, tmp_path / "two", 1000, processes=2, devices=1):
        _, said = process.communicate(timeout=240)
        assert process.returncode == 2 and "two is in use" in said, said
    started[1].send_signal(signal.SIGTERM)  # one of them is enough
    finish(started, 143)
    steps = checkpoints.latest_step(tmp_path / "two/checkpoints") + 4
    two = train(tiny_root, tmp_path / "two", steps, processes=2, devices=1)
    one = train(tiny_root, tmp_path / "one", steps, processes=1, devices=2)
    assert list(two) == list(range(1, steps + 1))
    np.testing.assert_allclose(list(two.values()), list(one.values()), rtol=1e-5)
    assert answers(tmp_path / "two", steps) == answers(tmp_path / "one", steps)
    found = infer(tiny_root, tmp_path / "two", processes=2, devices=1)
    (tmp_path / "two/infer.jsonl").unlink()
    assert len(found) == 7 and found == infer(tiny_root, tmp_path / "two", processes=1, devices=1)

"""Seconds from starting `t5x_like train` to the end of the first step, with a cold and a warm compile cache, and of imports.

Trains the 66.5M-parameter decoder of train_step.py on a warm token cache. The peer is bare JAX: imports, compiling the
step of hand_written.py, one step.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import report
from t5x_like.run_dir import RunDir

FILES = (
    "architectures/llama",
    "tasks/python_source_bytes",
    "objectives/causal_lm",
    "optimizers/adamw",
    "runs/pretrain",
)
MACROS = dict(WIDTH=512, LAYERS=8, HEADS=8, HEAD_DIM=64, MLP_DIM=2048, VOCAB_SIZE=32128, SCAN=False, LENGTH=256)
MACROS |= dict(BATCH_SIZE=8, STEPS=2, WARMUP_STEPS=1)
BARE = """
import jax
import hand_written
batch = jax.device_put(hand_written.random_batch(8, 256))
state = hand_written.init_state(hand_written.init_params(jax.random.key(0), 512, 8, 8, 2048))
float(jax.jit(hand_written.train_step)(state, batch)[1])
"""


def first_step(compile_cache: str) -> float:
    """Seconds until the metrics of the first step are on disk."""
    with tempfile.TemporaryDirectory() as run_dir:
        flags = [f"--gin_file={name}.gin" for name in FILES] + [f"--gin.{k}={v}" for k, v in MACROS.items()]
        flags += [f"--gin.RUN_DIR={run_dir}", "--gin.trainer.train.log_every=1", "--gin.trainer.Evaluation.rows=None"]
        started = time.perf_counter()
        command = [sys.executable, "-m", "t5x_like", "train", f"--compile_cache={compile_cache}", *flags]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        metrics = RunDir(run_dir).metrics
        while process.poll() is None and not (metrics.exists() and metrics.stat().st_size):
            time.sleep(0.01)
        seconds = time.perf_counter() - started
        assert process.wait() == 0
        return seconds


def time_program(program: str) -> float:
    """Seconds that a Python program takes in its own process."""
    started = time.perf_counter()
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    }
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)
    return time.perf_counter() - started


def main() -> None:
    """Runs the benchmark and prints the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        first_step(folder)  # fills the token cache and the compile cache
        sides: dict[str, list[float]] = {"cold": [], "warm": [], "bare": [], "import jax": [], "import t5x_like": []}
        for _ in range(args.rounds):
            with tempfile.TemporaryDirectory() as empty:
                sides["cold"].append(first_step(empty))
            sides["warm"].append(first_step(folder))
            sides["bare"].append(time_program(BARE))
            sides["import jax"].append(time_program("import jax"))
            sides["import t5x_like"].append(time_program("import jax, t5x_like.training.trainer"))
    report.print_table(
        "launch to the end of the first step, seconds", {name: report.summarize(x) for name, x in sides.items()}
    )
    medians = {name.replace(" ", "_"): report.summarize(x)["median"] for name, x in sides.items()}
    report.print_json(**medians, ratio=medians["cold"] / medians["bare"], **report.summarize(sides["cold"]))


if __name__ == "__main__":
    main()

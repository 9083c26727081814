"""Peak memory of training and evaluation, against what their arrays need; beside PyTorch training the same model.

Runs commands with the 66.5M decoder of train_step.py, batch 8 x 256, AdamW, and asks the kernel for the peak of each process.
Arrays are the train state, what XLA plans for a step besides (gradients, activations), and a copy of the state while a checkpoint
is written. The rest is Python and its libraries, compiled programs and gaps in malloc's memory; pages of token caches, which the
system takes back when it needs them, are counted apart. With --peer=PYTHON (an environment with torch and transformers) the
peer runs the steps of peers/train_step.py.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import comparison
import jax
import launch
import steps
import train_step

import report
import turns

MEGABYTE = 10**6
ROWS, LENGTH = 8, 256


def needed() -> dict[str, float]:
    """MB of the train state, of the parameters alone, and of what XLA plans for a training step and a forward pass besides."""
    batch = jax.device_put(train_step.random_batch(ROWS, LENGTH))
    model, shapes = train_step.build_model(), jax.eval_shape(lambda: batch)
    trained = steps.compile_step(model, train_step.ADAMW, shapes).memory_analysis()
    _, state = train_step.build_step(batch)
    forward = jax.jit(lambda params, batch: model.apply({"params": params}, batch))
    evaluated = forward.lower(state.params, batch).compile().memory_analysis()
    sizes = {"state": state, "params": state.params}
    figures = {name: sum(x.nbytes for x in jax.tree.leaves(tree)) / MEGABYTE for name, tree in sizes.items()}
    logits = evaluated.output_size_in_bytes  # an evaluation keeps them until the loss is computed
    return figures | {
        "step": trained.temp_size_in_bytes / MEGABYTE,
        "forward": (evaluated.temp_size_in_bytes + logits) / MEGABYTE,
    }


def cache_pages(process: int) -> int:
    """Bytes of token caches in a process's memory."""
    resident, inside = 0, False
    for line in Path(f"/proc/{process}/smaps").read_text().splitlines():
        fields = line.split()
        if "-" in fields[0]:
            inside = fields[-1].endswith((".tokens", ".offsets"))
        elif inside and fields[0] == "Rss:":
            resident += int(fields[1]) * 1024
    return resident


def peak(command: list[str]) -> dict[str, float]:
    """Runs a command: MB of its peak, and of pages of token caches in it."""
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    pages, done = 0, 0
    while not done:
        time.sleep(0.2)
        pages = max(pages, cache_pages(process.pid))
        done, status, usage = os.wait4(process.pid, os.WNOHANG)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, command
    return {"peak MB": usage.ru_maxrss * 1024 / MEGABYTE, "token cache": pages / MEGABYTE}


def measure(needs: Mapping[str, float], folder: str) -> dict[str, dict[str, float]]:
    """Runs the commands: MB of each by name."""
    program = [sys.executable, "-m", "t5x_like"]
    files = [f"--gin_file={name}.gin" for name in launch.FILES]
    macros = [f"--gin.{name}={value}" for name, value in launch.MACROS.items() if name != "STEPS"]
    train = [*program, "train", f"--compile_cache={folder}/xla", *files, *macros, "--gin.trainer.Evaluation.batches=2"]

    def run(number: int, name: str, save: int) -> list[str]:
        return [
            *train,
            f"--gin.STEPS={number}",
            f"--gin.RUN_DIR={folder}/{name}",
            f"--gin.trainer.Checkpointing.every={save}",
        ]

    peak(run(3, "fill", 1))  # fills the compile cache
    imports = [sys.executable, "-c", "import t5x_like.training.trainer, jax; jax.devices()"]
    arrays = 2 * needs["state"] + needs["step"]  # every run ends with a checkpoint
    runs = {
        "imports alone": (imports, 0.0),
        "train": (run(3, "run", 100), arrays),
        "train, saved every step": (run(3, "saved", 1), arrays),
        "train, resumed": (run(4, "run", 100), arrays),
        "eval": ([*program, "eval", f"--run_dir={folder}/run", "--batches=2"], needs["params"] + needs["forward"]),
    }
    rows = {}
    for name, (command, size) in runs.items():
        row = peak(command)
        rows[name] = row | {"arrays": size, "rest": row["peak MB"] - row["token cache"] - size}
    return rows


def measure_peer(python: str) -> float:
    """MB of the peer's peak."""
    size = dataclasses.asdict(train_step.SIZES["66.5M"])
    side = comparison.peer_side(
        python, "train_step.py", {"rows": ROWS, "length": LENGTH, "vocab": train_step.VOCAB} | size
    )
    return turns.take_turns({"torch": side}, 3)["torch"].all("peak_bytes")[-1] / MEGABYTE


def main() -> None:
    """Runs the benchmark and prints the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", metavar="PYTHON", help="Python of an environment with torch and transformers")
    parser.add_argument("--needed", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.needed:
        print(json.dumps(needed()))
        return
    done = subprocess.run([sys.executable, __file__, "--needed"], check=True, capture_output=True, text=True)
    needs = json.loads(done.stdout.splitlines()[-1])
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(needs, folder)
    if args.peer:
        size = needs["state"] + needs["params"]  # and gradients; its activations are not known
        row = {"peak MB": measure_peer(args.peer), "token cache": 0.0, "arrays": size}
        rows["torch"] = row | {"rest": row["peak MB"] - size}
    report.print_table("peak memory, MB", rows)
    report.print_json(needs=needs, rows=rows)


if __name__ == "__main__":
    main()

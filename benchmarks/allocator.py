"""Training speed of a small model with the memory allocator settings of `t5x_like` and with the defaults of glibc.

Runs the quickstart (1.9M parameters, batch 8 x 256, float32) alternately with both: tokens per second in training, and page
faults of the whole command per step.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile

import report
from t5x_like.run_dir import RunDir

SIDES: dict[str, dict[str, str]] = {"t5x_like settings": {}, "glibc defaults": {"GLIBC_TUNABLES": ""}}


def train(environment: dict[str, str], steps: int) -> tuple[float, float]:
    """Trains: (tokens per second over the last half of the steps, page faults of the command per step)."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_minflt
    with tempfile.TemporaryDirectory() as run_dir:
        command = [sys.executable, "-m", "t5x_like", "quickstart", f"--steps={steps}", f"--run_dir={run_dir}/run"]
        command += [f"--gin.trainer.train.log_every={steps // 2}"]
        clean = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
        subprocess.run(
            command, env=clean | environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        lines = [json.loads(line) for line in RunDir(f"{run_dir}/run").metrics.read_text().splitlines()]
    speeds = [line["speed/tokens_per_second"] for line in lines if "speed/tokens_per_second" in line]
    return speeds[-1], (resource.getrusage(resource.RUSAGE_CHILDREN).ru_minflt - before) / steps


def main() -> None:
    """Runs the benchmark and prints the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40)
    args = parser.parse_args()
    train({}, args.steps)  # fills the compile cache and the token cache
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in SIDES}
    for _ in range(args.rounds):
        for name, environment in SIDES.items():
            results[name].append(train(environment, args.steps))
    rows = {
        name: report.summarize([speed for speed, _ in runs])
        | {"page faults per step": report.summarize([faults for _, faults in runs])["median"]}
        for name, runs in results.items()
    }
    report.print_table("tokens per second", rows)
    ours, theirs = (row["median"] for row in rows.values())
    report.print_json(ratio=ours / theirs, **next(iter(rows.values())))


if __name__ == "__main__":
    main()

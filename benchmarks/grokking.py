"""Grokking: the step at which training accuracy reaches 99%, and the later step at which held-out accuracy does.

Runs `t5x_like train --gin_file=runs/grokking.gin`; other arguments (--gin.TRAIN_FRACTION=0.5) are passed to it.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import report
from t5x_like.run_dir import RunDir
from t5x_like.writers import read_metrics

TRAINED, HELD_OUT = "eval/modular_addition_trained/accuracy", "eval/modular_addition/accuracy"
THRESHOLD = 0.99


def first_step(records: list[dict], name: str) -> int | None:
    """Returns the first step at which an accuracy is at least THRESHOLD."""
    return next((record["step"] for record in records if record[name] >= THRESHOLD), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", help="folder of the run (default: a temporary folder)")
    args, arguments = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as temporary:
        run_dir = Path(args.folder or temporary) / "grokking"
        command = [sys.executable, "-m", "t5x_like", "train"]
        flags = ["--gin_file=runs/grokking.gin", f"--gin.RUN_DIR={run_dir}"]
        start = time.perf_counter()
        subprocess.run([*command, *flags, *arguments], check=True)
        seconds = time.perf_counter() - start
        records = [line for line in read_metrics(RunDir(run_dir).metrics) if TRAINED in line]
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    sample = records[:: max(len(records) // 20, 1)]
    rows = {f"step {x['step']}": {"trained on": x[TRAINED], "held out": x[HELD_OUT]} for x in sample}
    report.print_table("accuracy of modular addition", rows)
    trained, held_out = (first_step(records, name) for name in (TRAINED, HELD_OUT))
    print(f"\ntraining accuracy of {THRESHOLD:.0%} at step {trained}, held-out accuracy at step {held_out}")
    report.print_json(
        step_trained=trained,
        step_held_out=held_out,
        last_held_out=records[-1][HELD_OUT],
        wall_seconds=seconds,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
    )


if __name__ == "__main__":
    main()

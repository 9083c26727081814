"""Grokking: the step at which the sums trained on are known, and the later one at which the held-out sums are.

Runs `t5x_like train --gin_file=runs/grokking.gin`; what else is given (--gin.TRAIN_FRACTION=0.5) is handed on to it.
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
from t5x_like.writers import read_records

TRAINED, HELD_OUT = "eval/modular_addition_trained/accuracy", "eval/modular_addition/accuracy"
KNOWN = 0.99


def first_step(records: list[dict], name: str) -> int | None:
    """The first step at which an accuracy is at least KNOWN."""
    return next((record["step"] for record in records if record[name] >= KNOWN), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", help="where the run is kept (default: a temporary folder)")
    args, more = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as temporary:
        run_dir = Path(args.folder or temporary) / "grokking"
        command = [
            sys.executable,
            "-m",
            "t5x_like",
            "train",
            "--gin_file=runs/grokking.gin",
            f"--gin.RUN_DIR={run_dir}",
        ]
        began = time.perf_counter()
        subprocess.run([*command, *more], check=True)
        seconds = time.perf_counter() - began
        records = [line for line in read_records(RunDir(run_dir).metrics) if TRAINED in line]
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    shown = records[:: max(len(records) // 20, 1)]
    rows = {f"step {x['step']}": {"trained on": x[TRAINED], "held out": x[HELD_OUT]} for x in shown}
    report.print_table("accuracy of modular addition", rows)
    trained, held_out = (first_step(records, name) for name in (TRAINED, HELD_OUT))
    print(f"\n{KNOWN:.0%} of the sums trained on: step {trained}; {KNOWN:.0%} of those held out: step {held_out}")
    report.print_json(
        step_trained=trained,
        step_held_out=held_out,
        last_held_out=records[-1][HELD_OUT],
        wall_seconds=seconds,
        cpu_seconds=used.ru_utime + used.ru_stime,
    )


if __name__ == "__main__":
    main()

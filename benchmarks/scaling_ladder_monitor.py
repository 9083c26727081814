"""How well smaller runs of a ladder say what the training losses of larger ones will be, and whether drifts are found in them.

Reads the sweep that benchmarks/scaling_ladder.py has trained (--dir), run by run: of the smaller runs the one that the
monitor would choose is the reference, and the monitor goes through the larger one's log, with a level that is learned on the
way or that a fit says (--law). Alarms in runs as they were are false; then the second half of every log is raised by
--drift, and those alarms are wanted.
"""

import argparse
import math
import tempfile
from pathlib import Path

import numpy as np

import report
from t5x_like.scaling import expected
from t5x_like.scaling.laws import table
from t5x_like.training import monitor

SMALLER = 0.9  # a reference has at most this share of a run's parameters


def pairs(directory: Path) -> list[tuple[dict, Path, Path]]:
    """(row, run directory, that of its reference) of all runs that have one."""
    rows = [row for row in table.read(directory / "runs.csv").rows() if row["status"] == "finished"]
    folder, found = directory / "cells", []
    for row in rows:
        smaller = [other for other in rows if other["n_params"] <= SMALLER * row["n_params"]]
        if smaller:
            best = expected.most_alike(smaller, row["n_params"], row["tokens"])
            found.append((row, folder / row["run_id"], folder / best["run_id"]))
    return found


def watched(
    row: dict, run_dir: Path, reference: Path, drift: float, law: str | None = None
) -> tuple[bool, list[float]]:
    """(whether there was an alarm, how far the losses compared were from what was expected, in logs)."""
    log = expected.reference(run_dir)
    steps = np.arange(1, int(log.step_N[-1]) + 1)
    run = expected.Run(row["n_params"], log.step_tokens, np.interp((steps - 0.5) / steps[-1], log.u_N, log.rate_N))
    curve = expected.Expected(str(reference), law).curve(run)
    with tempfile.TemporaryDirectory() as folder:
        watch, errors = monitor.Watch(monitor.Monitor(), folder, lambda _: None, curve), []
        for done, count, loss in zip(map(int, log.step_N), map(int, log.count_N), log.loss_N, strict=True):
            late = done > steps[-1] / 2
            seen = watch.compare(done, count, loss * (1 + drift * late))
            if seen:
                errors.append(math.log(loss / seen["expected/loss"]))
        return watch.path.exists(), errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", type=Path, default=Path("runs/scaling_ladder"), help="of benchmarks/scaling_ladder.py")
    parser.add_argument("--drift", type=float, default=0.05, help="relative to the loss (default: %(default)s)")
    parser.add_argument("--law", metavar="FIT.json", help="of t5x_like fit: levels come from it")
    args = parser.parse_args()
    found = pairs(args.dir / "ladder")
    clean = [watched(*pair, 0.0, args.law) for pair in found]
    raised = [watched(*pair, args.drift, args.law) for pair in found]
    errors = np.concatenate([errors for _, errors in clean])
    report.finish(
        runs=len(found),
        rms_error=float(np.sqrt(np.mean(errors**2))),
        false_alarms=float(np.mean([alarm for alarm, _ in clean])),
        law=args.law,
        drift=args.drift,
        found=float(np.mean([alarm for alarm, _ in raised])),
    )


if __name__ == "__main__":
    main()

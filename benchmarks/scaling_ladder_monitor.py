"""Measures how well smaller runs of a ladder predict the training losses of larger ones, and whether drift is detected.

Reads the sweep that benchmarks/scaling_ladder.py has trained (--dir). For every run, the smaller run that the monitor would
choose is the reference, and the monitor replays the log of the larger run, with a level that it learns or that a fit gives
(--law). Alarms on unchanged logs are false alarms. Then --drift is added to the second half of every log, and alarms are true.
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

MAX_SHARE = 0.9  # of a run's parameters that a reference may have


def pairs(directory: Path) -> list[tuple[dict, Path, Path]]:
    """(row, run directory, directory of its reference) of all runs that have a reference."""
    rows = [row for row in table.read(directory / "runs.csv").rows() if row["status"] == "finished"]
    folder = directory / "trials"
    runs: list[tuple[dict, Path, Path]] = []
    for row in rows:
        smaller = [other for other in rows if other["n_params"] <= MAX_SHARE * row["n_params"]]
        if smaller:
            best = expected.most_similar(smaller, row["n_params"], row["tokens"])
            runs.append((row, folder / row["run_id"], folder / best["run_id"]))
    return runs


def replay(row: dict, run_dir: Path, reference: Path, drift: float, law: str | None = None) -> tuple[bool, list[float]]:
    """Replays a run through the monitor; returns (whether it raised an alarm, log of loss over expected loss)."""
    log = expected.read_reference(run_dir)
    steps = np.arange(1, int(log.step_N[-1]) + 1)
    run = expected.Run(row["n_params"], log.step_tokens, np.interp((steps - 0.5) / steps[-1], log.u_N, log.rate_N))
    curve = expected.ExpectedLoss(str(reference), law).curve(run)
    with tempfile.TemporaryDirectory() as folder:
        watch, errors = monitor.RunMonitor(monitor.Monitor(), folder, lambda _: None, curve), []
        for done, count, loss in zip(map(int, log.step_N), map(int, log.count_N), log.loss_N, strict=True):
            late = done > steps[-1] / 2
            seen = watch.compare(done, count, loss * (1 + drift * late))
            if seen:
                errors.append(math.log(loss / seen["expected/loss"]))
        return watch.run_dir.alarms.exists(), errors


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--dir", type=Path, default=Path("runs/scaling_ladder"), help="--dir of benchmarks/scaling_ladder.py"
    )
    parser.add_argument("--drift", type=float, default=0.05, help="drift relative to the loss (default: %(default)s)")
    parser.add_argument("--law", metavar="FIT.json", help="a file of t5x_like fit that gives the levels")
    args = parser.parse_args()
    runs = pairs(args.dir / "ladder")
    clean = [replay(*pair, 0.0, args.law) for pair in runs]
    raised = [replay(*pair, args.drift, args.law) for pair in runs]
    errors = np.concatenate([errors for _, errors in clean])
    report.print_json(
        runs=len(runs),
        rms_error=float(np.sqrt(np.mean(errors**2))),
        false_alarms=float(np.mean([alarm for alarm, _ in clean])),
        law=args.law,
        drift=args.drift,
        found=float(np.mean([alarm for alarm, _ in raised])),
    )


if __name__ == "__main__":
    main()

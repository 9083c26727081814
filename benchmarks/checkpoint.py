"""Time that saving a checkpoint blocks the train loop, its share of a run that saves every 100 steps, and that of checksums.

A state of 286 MB is saved while a computation keeps the cores busy, as training does.
"""

import argparse
import tempfile
import time
from pathlib import Path

import jax

import report
from t5x_like.checkpoints import Checkpointer, checksums, folder

MEGABYTES, ARRAYS = 286, 60


def main() -> None:
    """Runs the benchmark and prints the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--step_seconds", type=float, default=1.0, help="seconds per training step, for the share of a run"
    )
    args = parser.parse_args()
    size = MEGABYTES * 10**6 // 4 // ARRAYS
    keys = jax.random.split(jax.random.key(0), ARRAYS)  # random values are not compressed, as weights are not
    state = jax.block_until_ready({f"array_{i}": jax.random.normal(key, (size,)) for i, key in enumerate(keys)})
    step = jax.jit(lambda state: jax.tree.map(lambda x: x + 1.0, state), donate_argnums=0)
    blocked, total, summing = [], [], []
    with tempfile.TemporaryDirectory() as directory:
        checkpointer = Checkpointer(directory, keep_last=2)
        for number in range(args.rounds + 1):
            started = time.perf_counter()
            checkpointer.save(number, state, {})
            state = jax.block_until_ready(step(state))  # this step must wait for the copy
            with_save = time.perf_counter() - started
            checkpointer.wait()
            total.append(time.perf_counter() - started)
            started = time.perf_counter()
            state = jax.block_until_ready(step(state))
            blocked.append(max(with_save - (time.perf_counter() - started), 0.0))
            saved = Path(directory) / str(number)
            started = time.perf_counter()
            checksums.compute(saved, folder.file_sizes(saved), checksums.map_chunk)
            summing.append(time.perf_counter() - started)
        checkpointer.close()
    rows = {"loop blocked, s": report.summarize(blocked[1:]), "written after, s": report.summarize(total[1:])}
    rows |= {"of that checksums, s": report.summarize(summing[1:])}
    report.print_table(f"checkpoint of {MEGABYTES} MB in {ARRAYS} arrays", rows)
    share = report.summarize(blocked[1:])["median"] / (100 * args.step_seconds)
    print(f"share of a run that saves every 100 steps of {args.step_seconds} s: {share:.3%}")
    written = report.summarize(total[1:])["median"]
    print(f"checksums: {report.summarize(summing[1:])['median'] / written:.1%} of the time until it is written")
    report.print_json(ratio=share, **report.summarize(blocked[1:]))


if __name__ == "__main__":
    main()

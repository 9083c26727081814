"""How long the train loop stands still for a checkpoint, and what share of a run that saves every 100 steps that is.

A state of 286 MB is saved while a computation keeps the cores busy, as training does.
"""

import argparse
import tempfile
import time

import jax
import jax.numpy as jnp

import report
from t5x_like.checkpoints import Checkpointer

MEGABYTES, ARRAYS = 286, 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--step_seconds", type=float, default=1.0, help="a step's length, for the share of a run")
    args = parser.parse_args()
    each = MEGABYTES * 10**6 // 4 // ARRAYS
    state = jax.block_until_ready({f"array_{i}": jnp.full((each,), i, jnp.float32) for i in range(ARRAYS)})
    step = jax.jit(lambda state: jax.tree.map(lambda x: x + 1.0, state), donate_argnums=0)
    stalls, written = [], []
    with tempfile.TemporaryDirectory() as folder:
        saved = Checkpointer(folder, keep_last=2)
        for number in range(args.rounds + 1):
            started = time.perf_counter()
            saved.save(number, state, {})
            state = jax.block_until_ready(step(state))  # the copy has to be made before this step may write
            stalled = time.perf_counter() - started
            saved.wait()
            total = time.perf_counter() - started
            plain = time.perf_counter()
            state = jax.block_until_ready(step(state))
            stalls.append(max(stalled - (time.perf_counter() - plain), 0.0))
            written.append(total)
        saved.close()
    rows = {"loop stands still, s": report.summarize(stalls[1:]), "written after, s": report.summarize(written[1:])}
    report.print_table(f"checkpoint of {MEGABYTES} MB in {ARRAYS} arrays", rows)
    share = report.summarize(stalls[1:])["median"] / (100 * args.step_seconds)
    print(f"share of a run that saves every 100 steps of {args.step_seconds} s: {share:.3%}")
    report.print_json(ratio=share, **report.summarize(stalls[1:]))


if __name__ == "__main__":
    main()

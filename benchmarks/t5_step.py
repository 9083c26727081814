"""Seconds per step of T5 v1.1 small: batch 8, 128 input and 64 target tokens, float32, Adafactor.

A chain of matrix products with the same FLOPs runs alternately, to measure the machine's speed at the same time.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import train_step

import report
from t5x_like import optimizers, parameters, partitioning
from t5x_like.accounting import flops
from t5x_like.cli.gin import runtime
from t5x_like.objectives import lm
from t5x_like.optimizers import schedules
from t5x_like.parameters import Freeze
from t5x_like.precision import Precision
from t5x_like.training import state
from t5x_like.training.step import TrainStep, jit_step

ROWS, INPUTS, TARGETS, VOCAB = 8, 128, 64, 32128


def batch_of(rows: int) -> dict[str, np.ndarray]:
    """Returns random tokens for encoder and decoder."""
    encoder, decoder = train_step.random_batch(rows, INPUTS), train_step.random_batch(rows, TARGETS)
    names = ("input_tokens", "positions", "segment_ids")
    return {f"encoder_{name}": encoder[f"decoder_{name}"] for name in names} | decoder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    model = runtime.parse(["sizes/t5_1_1/small.gin"], ["--gin.SCAN=False"]).evaluate("%MODEL")
    mesh, precision = partitioning.make_mesh(devices=jax.devices()[:1]), Precision()
    batch = jax.device_put(batch_of(ROWS))
    shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in batch.items()}
    optimizer = optimizers.adafactor(schedules.rsqrt())
    layout = state.layout(model, optimizer, shapes, mesh)
    step = jit_step(
        TrainStep(model.apply, lm.LanguageModel(), optimizer, parameters.view(Freeze(), precision), 1),
        layout,
        partitioning.batch_sharding(mesh),
        mesh,
    )
    ours = train_step.Steps(
        lambda state, batch: step(state, batch, {}),
        layout.create(0),
        batch,
        lambda metrics: metrics["loss"][0] / metrics["loss"][1],
    )
    row = flops.per_row(model, layout.boxed.params, {"encoder": INPUTS, "decoder": TARGETS})
    count = row.train * ROWS
    size = 1024
    chain = jax.jit(lambda a: jax.lax.fori_loop(0, round(count / (2 * size**3)), lambda _, x: jnp.tanh(x @ a), a))
    a = jnp.eye(size)
    seconds = report.time_interleaved(
        {"train step": ours, "products": lambda: chain(a).block_until_ready()}, args.rounds
    )
    wall = {name: [w for w, _ in times] for name, times in seconds.items()}
    cpu = {name: [c for _, c in times] for name, times in seconds.items()}
    rows = {name: report.summarize(wall[name]) | {"CPU s": report.summarize(cpu[name])["median"]} for name in wall}
    report.print_table(f"T5 v1.1 small, batch {ROWS} x {INPUTS}/{TARGETS}, {count / 1e9:.0f} GFLOP per step", rows)
    ratio = report.summarize(wall["train step"])["median"] / report.summarize(wall["products"])["median"]
    report.print_json(
        ratio=ratio, cpu_seconds=report.summarize(cpu["train step"])["median"], **report.summarize(wall["train step"])
    )


if __name__ == "__main__":
    main()

"""Runs that differ only in learning rate and seed, trained by one program: the train step vmapped over replicas.

This pays where one run leaves the device idle: tiny models on a large GPU. Every replica has its own parameters, data order
and run directory, and gives the result of a separate run (to rounding). Replicas keep no checkpoints: a killed process starts
over.

The updates of t5x_like.optimizers are proportional to the learning rate, so a replica's update is that of the last
replica's optimizer, times the ratio of their rates.
"""

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from t5x_like import batches, partitioning, writers
from t5x_like.data.stream import Stream
from t5x_like.evaluation.evaluator import Evaluator
from t5x_like.precision import Precision
from t5x_like.progress import ProgressBar
from t5x_like.training import state as train_state
from t5x_like.training import trainer
from t5x_like.training.state import TrainState
from t5x_like.types import Model, Objective, Rows

PARAMETERS = (
    "model",
    "objective",
    "optimizer",
    "train_rows",
    "eval_rows",
    "steps",
    "batch_size",
    "precision",
    "log_every",
    "eval_batches",
)
UNSUPPORTED = {"mesh", "rules", "microbatches", "initial", "monitor"}


def check_parameters(bound: set[str]) -> None:
    """Refuses parameters of trainer.train that replicas do not support.

    Raises:
      ValueError: one of UNSUPPORTED is in `bound`.
    """
    if unsupported := sorted(UNSUPPORTED & bound):
        raise ValueError(
            f"runs that set {', '.join(unsupported)} of trainer.train cannot be trained as replicas; "
            "sweep without --replicas"
        )


@dataclasses.dataclass(frozen=True)
class Replica:
    """A run: its directory, peak learning rate, seed, and resolved configuration."""

    run_dir: str
    learning_rate: float
    seed: int
    config: str = ""


def train(
    replicas: Sequence[Replica],
    model: Model,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    train_rows: Rows,
    eval_rows: Rows | None,
    steps: int,
    batch_size: int,
    precision: Precision = Precision(),
    log_every: int = 10,
    eval_batches: int | None = None,
) -> list[str]:
    """Trains all replicas on one device and evaluates them at the end. Returns the run_dirs of those that diverged.

    `optimizer` must have the last replica's learning rate.
    """
    mesh = partitioning.make_mesh(devices=jax.devices()[:1])
    layout = train_state.layout(model, optimizer, batches.abstract(train_rows, batch_size), mesh, precision=precision)
    states = jax.tree.map(lambda *x: jnp.stack(x), *(layout.create(replica.seed) for replica in replicas))
    rates = jnp.array([replica.learning_rate / replicas[-1].learning_rate for replica in replicas], jnp.float32)
    streams = [Stream(train_rows, batch_size, replica.seed) for replica in replicas]
    step = jax.jit(jax.vmap(stepper(model, objective, optimizer, precision)), donate_argnums=0)
    info = partitioning.describe(layout.boxed.params, mesh, partitioning.RULES)
    for replica in replicas:
        Path(replica.run_dir).mkdir(parents=True, exist_ok=True)
        writers.write_run_files(replica.run_dir, replica.config, info)
    with contextlib.ExitStack() as stack, partitioning.on(mesh), ProgressBar("replicas", steps) as bar:
        logs = [stack.enter_context(writers.RunWriter(replica.run_dir)) for replica in replicas]
        for done in range(1, steps + 1):
            batch = jax.tree.map(lambda *x: np.stack(x), *(stream[done - 1] for stream in streams))
            states, metrics = step(states, batch, rates)
            if done % log_every == 0 or done == steps:
                losses = np.asarray(metrics["loss"][0] / metrics["loss"][1])
                for log, loss in zip(logs, losses, strict=True):
                    if np.isfinite(loss):
                        log.write(done, {"loss": float(loss)})
                bar.advance(done, f"losses {losses.min():.4f} to {losses.max():.4f}")
        finite = np.flatnonzero(np.isfinite(losses))
        if eval_rows is not None:
            evaluate = Evaluator(model.apply, objective, eval_rows, batch_size, mesh, partitioning.RULES, eval_batches)
            for i in finite:
                params = precision.to_compute_dtype(jax.tree.map(lambda x, i=i: x[i], states.params))
                logs[i].write(steps, {f"eval/{name}": value for name, value in evaluate(params).items()})
    return [replica.run_dir for i, replica in enumerate(replicas) if i not in finite]


def stepper(model, objective, optimizer, precision):
    """`(state, batch, rate) -> (state, metrics)` of one replica; the same mathematics as trainer.jitted_step."""

    def loss(params, batch, rng):
        total, weight, metrics = objective(model.apply, precision.to_compute_dtype(params), batch, rng)
        return total, (weight, metrics)

    def step(state: TrainState, batch: dict[str, Any], rate: jax.Array):
        rng = jax.random.fold_in(state.rng, state.step)
        grads, weight, metrics = trainer.accumulate(jax.grad(loss, has_aux=True), state.params, batch, rng, 1)
        grads = jax.tree.map(lambda g: g / jnp.maximum(weight, 1e-6).astype(g.dtype), grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, jax.tree.map(lambda u: u * rate.astype(u.dtype), updates))
        return TrainState(state.step + 1, params, opt_state, state.rng), metrics

    return step

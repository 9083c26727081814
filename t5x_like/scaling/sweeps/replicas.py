"""Runs that differ only in learning rate and seed, trained by one program: the train step vmapped over replicas.

This pays where one run leaves the device idle: tiny models on a large GPU. Every replica has its own parameters, data order
and run directory, and gives the result of a separate run (to rounding). Replicas keep no checkpoints: a killed process starts
over.

The updates of t5x_like.optimizers are proportional to the learning rate, so a replica's update is that of the last
replica's optimizer, times the ratio of their rates.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from t5x_like import batches, parameters, partitioning, writers
from t5x_like.data.stream import Stream
from t5x_like.evaluation.evaluator import Evaluator
from t5x_like.parameters import Freeze
from t5x_like.precision import Precision
from t5x_like.progress import ProgressBar
from t5x_like.training import contract
from t5x_like.training import state as train_state
from t5x_like.training.state import TrainState
from t5x_like.training.step import Batch, TrainStep
from t5x_like.training.trainer import Evaluation
from t5x_like.types import Metrics, Model, Objective, Params, Rows

PARAMETERS = (
    "model",
    "objective",
    "optimizer",
    "train_rows",
    "steps",
    "batch_size",
    "precision",
    "log_every",
    "evaluation",
)
UNSUPPORTED = {"mesh", "rules", "microbatches", "transform", "initialize_from", "monitor"}


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
    steps: int,
    batch_size: int,
    precision: Precision = Precision(),
    log_every: int = 10,
    evaluation: Evaluation = Evaluation(),
) -> list[str]:
    """Trains all replicas on one device and evaluates them at the end. Returns the run_dirs of those that diverged.

    `optimizer` must have the last replica's learning rate.

    Raises:
      ValueError: an objective with reference trees, which replicas do not support.
    """
    if getattr(objective, "references", None):
        raise ValueError(f"{type(objective).__name__} needs reference trees; sweep without --replicas")
    contract.check(model, objective, train_rows)
    mesh = partitioning.make_mesh(devices=jax.devices()[:1])
    layout = train_state.layout(model, optimizer, batches.abstract(train_rows, batch_size), mesh, precision=precision)
    states = jax.tree.map(lambda *x: jnp.stack(x), *(layout.create(replica.seed) for replica in replicas))
    rates = jnp.array([replica.learning_rate / replicas[-1].learning_rate for replica in replicas], jnp.float32)
    streams = [Stream(train_rows, batch_size, replica.seed) for replica in replicas]
    step = jax.jit(jax.vmap(make_step(model, objective, optimizer, precision)), donate_argnums=0)
    info = partitioning.describe(layout.boxed.params, mesh, partitioning.RULES)
    for replica in replicas:
        Path(replica.run_dir).mkdir(parents=True, exist_ok=True)
        writers.write_run_files(replica.run_dir, replica.config, info, train_rows.vocabulary, None)
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
        if evaluation.rows is not None:
            evaluate = Evaluator(
                model.apply, objective, evaluation.rows, batch_size, mesh, partitioning.RULES, evaluation.batches
            )
            for i in finite:
                params = precision.to_compute_dtype(jax.tree.map(lambda x, i=i: x[i], states.params))
                logs[i].write(steps, {f"eval/{name}": value for name, value in evaluate(params).items()})
    return [replica.run_dir for i, replica in enumerate(replicas) if i not in finite]


def make_step(
    model: Model, objective: Objective, optimizer: optax.GradientTransformation, precision: Precision
) -> Callable[[TrainState, Batch, jax.Array], tuple[TrainState, Metrics]]:
    """Returns `(state, batch, rate) -> (state, metrics)`: a train step whose updates are multiplied by `rate`."""

    def step(state: TrainState, batch: Batch, rate: jax.Array) -> tuple[TrainState, Metrics]:
        def update(grads: Params, opt_state: Any, params: Params | None = None) -> tuple[Params, Any]:
            updates, opt_state = optimizer.update(grads, opt_state, params)
            return jax.tree.map(lambda u: u * rate.astype(u.dtype), updates), opt_state

        scaled = optax.GradientTransformation(optimizer.init, update)
        return TrainStep(model.apply, objective, scaled, parameters.view(Freeze(), precision))(state, batch)

    return step

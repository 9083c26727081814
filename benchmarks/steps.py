"""The train step of the library on one device, as `t5x_like train` builds it, for benchmarks that need no gin."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

import turns
from t5x_like import parameters, partitioning
from t5x_like.accounting import flops
from t5x_like.objectives import lm
from t5x_like.parameters import Freeze, Transform
from t5x_like.precision import Precision
from t5x_like.training import state as train_state
from t5x_like.training.step import TrainStep, jit_step
from t5x_like.types import Model


def jitted(
    model: Model,
    optimizer: optax.GradientTransformation,
    shapes: Mapping[str, jax.ShapeDtypeStruct],
    objective: lm.LanguageModel | None = None,
    precision: Precision | None = None,
    transform: Transform = Freeze(),
) -> tuple[Any, train_state.Layout, Mesh]:
    """Returns (the jitted step (state, batch, references) -> (state, metrics), layout of the state, mesh)."""
    mesh, precision = partitioning.make_mesh(devices=jax.devices()[:1]), precision or Precision()
    layout = train_state.layout(model, optimizer, shapes, mesh, precision=precision, transform=transform)
    view = parameters.view(transform, precision)
    trained = TrainStep(model.apply, objective or lm.LanguageModel(), optimizer, view, 1)
    return jit_step(trained, layout, partitioning.batch_sharding(mesh), mesh), layout, mesh


def build(
    model: Model,
    optimizer: optax.GradientTransformation,
    shapes: Mapping[str, jax.ShapeDtypeStruct],
    objective: lm.LanguageModel | None = None,
    precision: Precision | None = None,
    transform: Transform = Freeze(),
) -> tuple[Callable[[Any, Mapping[str, Any]], tuple[Any, Mapping]], train_state.Layout]:
    """Returns ((state, batch) -> (state, metrics), layout of the state) for batches of these shapes."""
    step, layout, mesh = jitted(model, optimizer, shapes, objective, precision, transform)

    def run(state: Any, batch: Mapping[str, Any]) -> tuple[Any, Mapping]:
        with partitioning.on(mesh):
            return step(state, batch, {})

    return run, layout


def compile_step(
    model: Model, optimizer: optax.GradientTransformation, shapes: Mapping[str, jax.ShapeDtypeStruct]
) -> jax.stages.Compiled:
    """The compiled step, which tells what memory it needs."""
    step, layout, mesh = jitted(model, optimizer, shapes)
    state = layout.abstract  # cannot be computed while the mesh is set
    with partitioning.on(mesh):
        return step.lower(state, shapes, {}).compile()


class Steps:
    """Runs one train step per call, on one batch, and returns its loss when the new state is complete."""

    def __init__(self, step: Callable, state: Any, batch: Mapping[str, Any], loss: Callable[[Any], jax.Array]) -> None:
        self.step, self.state, self.batch, self.loss = step, state, batch, loss

    def __call__(self) -> float:
        self.state, out = self.step(self.state, self.batch)
        jax.block_until_ready(self.state)
        return float(self.loss(out))


def serve(
    model: Model,
    optimizer: optax.GradientTransformation,
    batch: Mapping[str, np.ndarray],
    objective: lm.LanguageModel | None = None,
    transform: Transform = Freeze(),
) -> None:
    """Serves train steps on one batch, as a side of a comparison (turns.py); reports the FLOPs of one."""
    step, layout = build(model, optimizer, jax.eval_shape(lambda: batch), objective, transform=transform)
    lengths = {name.split("_")[0]: x.shape[1] for name, x in batch.items() if name.endswith("_input_tokens")}
    row, rows = flops.per_row(model, layout.model, lengths), len(next(iter(batch.values())))
    run = Steps(step, layout.create(0), jax.device_put(batch), lambda metrics: metrics["loss"][0] / metrics["loss"][1])
    turns.serve(run, flops=row.train * rows, versions={"jax": jax.__version__})

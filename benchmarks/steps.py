"""The train step of the library on one device, as `t5x_like train` builds it, for benchmarks that need no gin."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax

from t5x_like import parameters, partitioning
from t5x_like.objectives import lm
from t5x_like.parameters import Freeze
from t5x_like.precision import Precision
from t5x_like.training import state as train_state
from t5x_like.training.step import TrainStep, jit_step
from t5x_like.types import Model


def build(
    model: Model,
    optimizer: optax.GradientTransformation,
    shapes: Mapping[str, jax.ShapeDtypeStruct],
    objective: lm.LanguageModel | None = None,
    precision: Precision | None = None,
) -> tuple[Callable[[Any, Mapping[str, Any]], tuple[Any, Mapping]], train_state.Layout]:
    """Returns ((state, batch) -> (state, metrics), layout of the state) for batches of these shapes."""
    mesh, precision = partitioning.make_mesh(devices=jax.devices()[:1]), precision or Precision()
    layout = train_state.layout(model, optimizer, shapes, mesh, precision=precision)
    view = parameters.view(Freeze(), precision)
    trained = TrainStep(model.apply, objective or lm.LanguageModel(), optimizer, view, 1)
    step = jit_step(trained, layout, partitioning.batch_sharding(mesh), mesh)

    def run(state: Any, batch: Mapping[str, Any]) -> tuple[Any, Mapping]:
        with partitioning.on(mesh):
            return step(state, batch, {})

    return run, layout

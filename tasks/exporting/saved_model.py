"""Programs of an exported run as a SavedModel, which TensorFlow runs without JAX.

Each program is an operation XlaCallModule around its StableHLO. The parameters are variables of the SavedModel.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
import tensorflow as tf
from jax.experimental import jax2tf

from t5x_like.exporting import lowering
from t5x_like.exporting.lowering import Lowered


def write(folder: Path, lowered: Sequence[Lowered], params: Mapping[str, jax.Array]) -> None:
    """Writes saved_model.pb and variables/ into a folder. The name of a program is that of its signature."""
    tf.config.set_visible_devices([], "GPU")
    module = tf.Module()
    module.parameters = {name: tf.Variable(np.asarray(x), trainable=False, name=name) for name, x in params.items()}
    signatures = {each.program.name: make_function(each, module) for each in lowered}
    module.functions = signatures
    tf.saved_model.save(module, str(folder), signatures)


def make_function(lowered: Lowered, module: tf.Module) -> tf.types.experimental.PolymorphicFunction:
    """A program as a function of TensorFlow that reads the module's parameters."""
    exported, names = lowered.exported, list(lowered.program.inputs)
    shapes = [x.shape for x in exported.in_avals[-len(names) :]]
    converted = jax2tf.convert(
        exported.call,
        polymorphic_shapes=[None, *(f"({', '.join(map(str, shape))})" for shape in shapes)],
        polymorphic_constraints=lowering.constraints(lowered.ranges),
        with_gradient=False,
        native_serialization_platforms=exported.platforms,
    )
    sizes = [[size if isinstance(size, int) else None for size in shape] for shape in shapes]
    specs = [tf.TensorSpec(size, tf.int32, name) for size, name in zip(sizes, names, strict=True)]

    def call(*inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        return converted(dict(module.parameters), *inputs)

    return tf.function(call, input_signature=specs, autograph=False)

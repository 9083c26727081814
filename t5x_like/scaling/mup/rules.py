"""Maximal update parametrization (muP): hyperparameters tuned on a narrow model transfer to a wide one.

The logical axes of a parameter determine its fan-in. With m = (its width-like fan-in) / (that of the base model), Adam's
learning rate is the base rate / m, and decoupled weight decay keeps rate * decay unchanged (Yang et al. 2022, table 3).
Embeddings, norms and biases, whose fan-in does not grow, keep the base rate. Initializers set the initial standard deviations:
1 / sqrt(m) in hidden matrices (`variance_scaling(..., 'fan_in')`) and 1 / m in the head (`inverse_fan_in`);
gin_configs/sweeps/mup.gin configures both. CompleteP (Dey et al. 2025, alpha 1) adds depth: it divides what a block adds to
the residual stream by layers / base_layers, here by the learning rate and the initial standard deviation of the matrices that
write to the stream; gin_configs/sweeps/complete_p.gin configures that.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from t5x_like import optimizers, parameters
from t5x_like.types import Params

COPY_AXES = ("layers", "expert")  # axes over copies of a matrix, not part of the matrix


def fan_in_axes(path: str, names: tuple[str | None, ...]) -> tuple[str | None, ...]:
    """Returns the logical axes that a parameter sums over; () if it multiplies no vector of the model's width.

    Raises:
      ValueError: the axes of a matrix do not determine its inputs.
    """
    inner = tuple(name for name in names if name not in COPY_AXES)
    if len(inner) < 2 or {"position", "relpos"} & set(inner):
        return ()
    if "vocab" in inner:
        return ("embed",) if path.startswith("head") else ()
    if inner[0] == "embed":
        return inner[:1]
    if inner[-1] == "embed":
        return inner[:-1]
    raise ValueError(
        f"muP has no rule for parameter {path} with axes {names}: neither the first nor the last is 'embed'; use "
        "another parametrization for this architecture"
    )


def writes_to_residual(path: str, names: tuple[str | None, ...]) -> bool:
    """Whether a matrix ends a block's branch, so that its output is added to the residual stream."""
    return (
        names[-1] == "embed" and "vocab" not in names and bool(fan_in_axes(path, names)) and not path.startswith("head")
    )


def width_multiplier(path: str, names: tuple[str | None, ...], shape: Sequence[int], base: Mapping[str, int]) -> float:
    """Returns m of a parameter: its fan-in over that of the base model, along the axes in `base`."""
    sizes: dict[str | None, int] = dict(zip(names, shape, strict=True))
    axes = [name for name in fan_in_axes(path, names) if name is not None and name in base]
    return math.prod((sizes[name] / base[name] for name in axes), start=1.0)


def scale_by_width(
    optimizer: optax.GradientTransformation,
    base: Mapping[str, int],
    weight_decay: float = 0.0,
    layers: int = 1,
    base_layers: int = 1,
) -> optax.GradientTransformation:
    """Returns `optimizer` with the learning rates of muP.

    Args:
      optimizer: an Adam-like optimizer of t5x_like.optimizers, with its own weight_decay 0.
      base: sizes of the logical axes in the base model.
      weight_decay: decoupled weight decay of matrices, at the same pace at every width.
      layers: the number of layers, for CompleteP.
      base_layers: the number of layers of the base model.

    Raises:
      ValueError: at `init`, a parameter has no rule or no logical axes.
    """
    depth = layers / base_layers

    def factor(path: Any, leaf: Any) -> jax.Array:
        name = parameters.path_name(path)
        if not hasattr(leaf, "names"):
            raise ValueError(f"muP needs logical axes, but parameter {name} has none; initialise boxed parameters")
        rate = 1.0 / width_multiplier(name, leaf.names, leaf.value.shape, base)
        rate /= depth if writes_to_residual(name, leaf.names) else 1.0
        return jnp.array([rate, weight_decay if len(leaf.names) > 1 else 0.0], jnp.float32)

    def init(params: Params) -> tuple[Any, ...]:
        boxed = jax.tree_util.tree_map_with_path(
            factor, params, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned)
        )
        return (boxed, *optimizer.init(params))

    def update(grads: Params, state: Any, params: Params | None = None) -> tuple[Params, tuple[Any, ...]]:
        factors, *inner = state
        updates, inner = optimizer.update(grads, tuple(inner), params)
        rate = optimizers.learning_rate_of(inner)
        updates = jax.tree.map(lambda u, f, p: u * f[0].astype(u.dtype) - rate * f[1] * p, updates, factors, params)
        return updates, (factors, *inner)

    return optax.GradientTransformation(init, update)


def inverse_fan_in(scale: float) -> Callable[..., jax.Array]:
    """Initializer with standard deviation scale / fan-in, for a head under muP: logits are O(1 / sqrt(width))."""

    def initialize(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        return scale / shape[0] * jax.random.normal(key, shape, dtype)

    return initialize


def inverse_depth(layers: int, base_layers: int) -> Callable[..., jax.Array]:
    """Initializer with standard deviation base_layers / layers / sqrt(fan-in), for matrices that end a branch (CompleteP)."""
    return jax.nn.initializers.variance_scaling((base_layers / layers) ** 2, "fan_in", "normal")

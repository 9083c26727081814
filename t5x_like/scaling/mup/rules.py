"""Maximal update parametrization: hyperparameters tuned on a narrow model hold for a wide one.

Every parameter's fan-in is read off its logical axes. With m = (its width-like fan-in) / (that of the base model), Adam's
rate is the base rate / m, and decoupled weight decay keeps rate * decay as it is (Yang et al. 2022, table 3); embeddings,
norms and biases, whose fan-in does not grow, keep the base rate. Initial deviations are the initializers' part: 1 / sqrt(m) in
hidden matrices, which `variance_scaling(..., 'fan_in')` gives, and 1 / m in the head, which `over_fan_in` gives;
gin_configs/sweeps/mup.gin sets both. CompleteP (Dey et al. 2025, alpha 1) adds depth: what a block adds to the residual
stream is divided by layers / base_layers, here through the rate and the initial deviation of the matrices that write to it;
gin_configs/sweeps/complete_p.gin sets that.
"""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from t5x_like import optimizers

COUNTED = ("layers", "expert")  # axes over copies of a matrix, no part of it


def fan_in(path: str, names: tuple[str | None, ...]) -> tuple[str, ...]:
    """The axes that a parameter sums over, by its logical names; () where it multiplies no vector of the model's width.

    Raises:
      ValueError: a matrix whose axes say nothing of its inputs.
    """
    inner = tuple(name for name in names if name not in COUNTED)
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


def writes_to_stream(path: str, names: tuple[str | None, ...]) -> bool:
    """Whether a matrix ends a block's branch: the stream is its output."""
    return names[-1] == "embed" and "vocab" not in names and bool(fan_in(path, names)) and not path.startswith("head")


def multiplier(path: str, names, shape, base: Mapping[str, int]) -> float:
    """m of a parameter: its fan-in over the base model's, along the axes that `base` gives sizes of."""
    sizes = dict(zip(names, shape, strict=True))
    return math.prod(sizes[name] / base[name] for name in fan_in(path, names) if name in base)


def scaled(
    optimizer: optax.GradientTransformation,
    base: Mapping[str, int],
    weight_decay: float = 0.0,
    layers: int = 1,
    base_layers: int = 1,
) -> optax.GradientTransformation:
    """`optimizer`, Adam-like and of optimizers.py, with rates by muP; `base` are the axes' sizes in the base model.

    Give the optimizer itself weight_decay 0: the one given here decays matrices at the same pace at every width.

    Raises:
      ValueError: at `init`, a parameter that has no rule or no axes.
    """
    depth = layers / base_layers

    def factor(path, leaf):
        name = optimizers.path_name(path)
        if not hasattr(leaf, "names"):
            raise ValueError(f"muP reads logical axes, and parameter {name} has none; init it boxed, as the models are")
        rate = 1.0 / multiplier(name, leaf.names, leaf.value.shape, base)
        rate /= depth if writes_to_stream(name, leaf.names) else 1.0
        return jnp.array([rate, weight_decay if len(leaf.names) > 1 else 0.0], jnp.float32)

    def init(params):
        boxed = jax.tree_util.tree_map_with_path(
            factor, params, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned)
        )
        return (boxed, *optimizer.init(params))

    def update(grads, state, params):
        factors, *inner = state
        updates, inner = optimizer.update(grads, tuple(inner), params)
        rate = optimizers.learning_rate_of(inner)
        updates = jax.tree.map(lambda u, f, p: u * f[0].astype(u.dtype) - rate * f[1] * p, updates, factors, params)
        return updates, (factors, *inner)

    return optax.GradientTransformation(init, update)


def over_fan_in(scale: float):
    """Initial deviation scale / fan-in: a head under muP, whose logits are then of order 1 / sqrt(width) or less."""

    def initialize(key, shape, dtype=jnp.float32):
        return scale / shape[0] * jax.random.normal(key, shape, dtype)

    return initialize


def into_stream(layers: int, base_layers: int):
    """Initial deviation base_layers / layers / sqrt(fan-in): of matrices that end a block's branch under CompleteP."""
    return jax.nn.initializers.variance_scaling((base_layers / layers) ** 2, "fan_in", "normal")

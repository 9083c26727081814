"""Optimizers: functions that return an optax.GradientTransformation.

They share what surrounds the rule itself: clipping by global norm, decoupled weight decay and learning-rate factors, chosen by
regular expressions that are searched in the parameter's path ("decoder/layer_0/mlp/up/kernel"). `init` takes parameters
boxed with logical axis names and boxes its state alike. Parameters that are not trained are not among them: see
`t5x_like.parameters.Freeze`.
"""

import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax import struct

from t5x_like.optimizers.adafactor import scale_by_adafactor
from t5x_like.optimizers.ranges import check_decays, check_not_negative, check_positive
from t5x_like.optimizers.schedules import Schedule
from t5x_like.parameters import check_patterns, path_name
from t5x_like.types import Params

Factors = Sequence[tuple[str, float]]  # (regular expression, factor); the first that is found counts, else 1

NO_DECAY_ON_VECTORS: Factors = ((r"(^|/)(bias|scale)$", 0.0),)


def adamw(
    learning_rate: Schedule | float,
    b1: float = 0.9,
    b2: float = 0.95,
    eps: float = 1e-8,
    weight_decay: float = 0.1,
    decay_factors: Factors = NO_DECAY_ON_VECTORS,
    lr_factors: Factors = (),
    clip_norm: float | None = 1.0,
    moment_dtype: jnp.dtype | None = None,
) -> optax.GradientTransformation:
    """AdamW (Loshchilov & Hutter 2019); `moment_dtype` is the first moment's, by default the parameter's."""
    check_decays(b1=b1, b2=b2)
    check_not_negative(eps=eps)
    rule = optax.scale_by_adam(b1, b2, eps, mu_dtype=moment_dtype)
    return from_rule(rule, learning_rate, weight_decay, decay_factors, lr_factors, clip_norm)


def lion(
    learning_rate: Schedule | float,
    b1: float = 0.9,
    b2: float = 0.99,
    weight_decay: float = 1.0,
    decay_factors: Factors = NO_DECAY_ON_VECTORS,
    lr_factors: Factors = (),
    clip_norm: float | None = 1.0,
) -> optax.GradientTransformation:
    """Lion: the sign of an interpolated momentum (Chen et al. 2023)."""
    check_decays(b1=b1, b2=b2)
    rule = optax.scale_by_lion(b1, b2)
    return from_rule(rule, learning_rate, weight_decay, decay_factors, lr_factors, clip_norm)


def sgd(
    learning_rate: Schedule | float,
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    decay_factors: Factors = NO_DECAY_ON_VECTORS,
    lr_factors: Factors = (),
    clip_norm: float | None = None,
) -> optax.GradientTransformation:
    """Stochastic gradient descent with momentum (0 keeps no state)."""
    check_decays(momentum=momentum)
    rule = optax.trace(momentum, nesterov) if momentum else optax.identity()
    return from_rule(rule, learning_rate, weight_decay, decay_factors, lr_factors, clip_norm)


def adafactor(
    learning_rate: Schedule | float,
    decay_rate: float = 0.8,
    step_offset: int = 0,
    multiply_by_parameter_scale: bool = True,
    clipping_threshold: float | None = 1.0,
    momentum: float | None = None,
    epsilon1: float = 1e-30,
    epsilon2: float = 1e-3,
    min_dim_size_to_factor: int = 128,
    weight_decay: float = 0.0,
    decay_factors: Factors = NO_DECAY_ON_VECTORS,
    lr_factors: Factors = (),
    clip_norm: float | None = None,
) -> optax.GradientTransformation:
    """Adafactor (Shazeer & Stern 2018) as T5X has it: moments factored by logical axis, steps scaled by parameter size."""
    check_decays(momentum=momentum)
    check_not_negative(epsilon1=epsilon1, epsilon2=epsilon2)
    check_positive(decay_rate=decay_rate, clipping_threshold=clipping_threshold)
    rule = scale_by_adafactor(
        decay_rate,
        step_offset,
        multiply_by_parameter_scale,
        clipping_threshold,
        momentum,
        epsilon1,
        epsilon2,
        min_dim_size_to_factor,
    )
    return from_rule(rule, learning_rate, weight_decay, decay_factors, lr_factors, clip_norm)


class StepState(struct.PyTreeNode):
    """The number of steps done, and the learning rate of the last one."""

    count: jax.Array
    learning_rate: jax.Array


def from_rule(
    rule: optax.GradientTransformation,
    learning_rate: Schedule | float,
    weight_decay: float,
    decay_factors: Factors,
    lr_factors: Factors,
    clip_norm: float | None,
) -> optax.GradientTransformation:
    """The optimizer: clip -> rule -> -lr * lr_factor * (update + weight_decay * decay_factor * parameter).

    Raises:
      ValueError: a number out of range or, at `init`, a regular expression that is found in no parameter's path.
    """
    check_not_negative(weight_decay=weight_decay, **{f"factor of {p!r}": x for p, x in (*decay_factors, *lr_factors)})
    check_positive(clip_norm=clip_norm)
    chain = rule if clip_norm is None else optax.chain(optax.clip_by_global_norm(clip_norm), rule)

    def init(params: Params) -> Any:
        own_decay = () if decay_factors is NO_DECAY_ON_VECTORS else decay_factors
        check_patterns([pattern for pattern, _ in (*lr_factors, *own_decay)], params)
        return chain.init(params), StepState(jnp.zeros((), jnp.int32), jnp.zeros(()))

    def update(grads: Params, state: Any, params: Params) -> tuple[Params, Any]:
        inner, step = state
        updates, inner = chain.update(grads, inner, params)
        rate = jnp.asarray(learning_rate(step.count) if callable(learning_rate) else learning_rate, jnp.float32)

        def finish(path: Any, u: jax.Array, p: jax.Array) -> jax.Array:
            name = path_name(path)
            decay = weight_decay * factor_of(name, decay_factors)
            return -rate * factor_of(name, lr_factors) * (u + decay * p if decay else u)

        updates = jax.tree_util.tree_map_with_path(finish, updates, params)
        return updates, (inner, StepState(step.count + 1, rate))

    return optax.GradientTransformation(init, update)


def learning_rate_of(opt_state: Any) -> jax.Array | None:
    """The learning rate of the last step; None for the state of an optimizer that is not from this file."""
    last = opt_state[-1] if isinstance(opt_state, tuple) and opt_state else None
    return last.learning_rate if isinstance(last, StepState) else None


def learning_rates(optimizer: optax.GradientTransformation, boxed_params: Params, steps: int) -> np.ndarray | None:
    """The learning rate of every step, float64 [steps]; None for an optimizer that is not from this file.

    Only the schedule is computed.
    """

    def zeros(tree: Any) -> Any:
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), tree)

    def rate(step: jax.Array) -> jax.Array | None:
        *inner, last = nn.unbox(zeros(jax.eval_shape(optimizer.init, boxed_params)))
        params = nn.unbox(zeros(boxed_params))
        return learning_rate_of(optimizer.update(params, (*inner, last.replace(count=step)), params)[1])

    if learning_rate_of(jax.eval_shape(optimizer.init, boxed_params)) is None:
        return None
    return np.asarray(jax.jit(jax.vmap(rate))(jnp.arange(steps)), np.float64)


def factor_of(path: str, factors: Factors) -> float:
    """The factor of the first expression found in the path; 1 if there is none."""
    return next((factor for pattern, factor in factors if re.search(pattern, path)), 1.0)

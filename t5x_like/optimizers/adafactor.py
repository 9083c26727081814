"""Adafactor's update rule (Shazeer & Stern 2018) with T5X's semantics: axes are factored by their logical names."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct

ROWS = frozenset({"embed"})
COLUMNS = frozenset({"vocab", "mlp", "heads", "kv_heads", "head_dim"})
BATCH = frozenset({"layers", "expert"})  # each index has its own statistics and scale


class Moment(struct.PyTreeNode):
    """The statistics of one parameter: `row` and `column` means if it is factored, else `full`; the others are ().

    `rows`, `columns` and `batch` are dims of the parameter.
    """

    row: Any
    column: Any
    full: Any
    momentum: Any
    rows: tuple[int, ...] = struct.field(pytree_node=False)
    columns: tuple[int, ...] = struct.field(pytree_node=False)
    batch: tuple[int, ...] = struct.field(pytree_node=False)


class AdafactorState(struct.PyTreeNode):
    """Steps done, and a `Moment` for every parameter."""

    count: jax.Array
    moments: Any


@dataclasses.dataclass(frozen=True)
class Dims:
    """The dims of a parameter by role; none are rows or columns if it is not factored."""

    rows: tuple[int, ...]
    columns: tuple[int, ...]
    batch: tuple[int, ...]


def factored_dims(names: tuple[str | None, ...], shape: tuple[int, ...], smallest: int) -> Dims:
    """The dims that are averaged for the row and column statistics of a parameter with these logical axes.

    A parameter is factored if its rows and its columns have at least `smallest` elements each.
    """

    def dims(kind: frozenset[str]) -> tuple[int, ...]:
        return tuple(i for i, name in enumerate(names) if name in kind)

    rows, columns, batch = dims(ROWS), dims(COLUMNS), dims(BATCH)
    large = all(math.prod(shape[i] for i in group) >= smallest for group in (rows, columns))
    others = len(rows) + len(columns) + len(batch) < len(names)
    if not rows or not columns or others or not large:
        return Dims((), (), batch)
    return Dims(rows, columns, batch)


def scale_by_adafactor(
    decay_rate: float,
    step_offset: int,
    multiply_by_parameter_scale: bool,
    clipping_threshold: float | None,
    momentum: float | None,
    epsilon1: float,
    epsilon2: float,
    min_dim_size_to_factor: int,
) -> optax.GradientTransformation:
    """Adafactor's update direction, to be multiplied by minus the learning rate.

    v = b v + (1 - b)(g^2 + epsilon1), b = 1 - t^-decay_rate, kept as row and column means; u = g / sqrt(v), divided by
    max(1, RMS(u) / clipping_threshold) and multiplied by max(epsilon2, RMS(parameter)).
    """

    def moment(param: Any) -> Moment:
        boxed = isinstance(param, nn.LogicallyPartitioned)
        value = param.value if boxed else param
        names = tuple(param.names) if boxed else (None,) * value.ndim
        dims = factored_dims(names, value.shape, min_dim_size_to_factor)

        def zeros(without: tuple[int, ...]):
            rest = [i for i in range(value.ndim) if i not in without]
            array = jnp.zeros([value.shape[i] for i in rest], jnp.float32)
            return param.replace(value=array, names=tuple(names[i] for i in rest)) if boxed else array

        velocity = () if momentum is None else zeros(())
        if not dims.rows:
            return Moment((), (), zeros(()), velocity, dims.rows, dims.columns, dims.batch)
        return Moment(zeros(dims.columns), zeros(dims.rows), (), velocity, dims.rows, dims.columns, dims.batch)

    def init(params: Any) -> AdafactorState:
        is_boxed = lambda x: isinstance(x, nn.LogicallyPartitioned)  # noqa: E731
        return AdafactorState(jnp.zeros((), jnp.int32), jax.tree.map(moment, params, is_leaf=is_boxed))

    def step(grad: jax.Array, old: Moment, param: jax.Array, keep: jax.Array) -> tuple[jax.Array, Moment]:
        """(direction, new moment); `keep` is the decay of the old statistics."""
        grad = grad.astype(jnp.float32)
        within = tuple(i for i in range(grad.ndim) if i not in old.batch)

        def blend(before: jax.Array, now: jax.Array) -> jax.Array:
            return keep * before + (1.0 - keep) * now

        if old.rows:
            # Squares are computed within each mean; XLA:CPU would store those that two sums (or the gradient's norm) share.
            first, second = jax.lax.optimization_barrier((grad, grad))
            row = blend(old.row, jnp.mean(jnp.square(first), axis=old.columns) + epsilon1)
            column = blend(old.column, jnp.mean(jnp.square(second), axis=old.rows) + epsilon1)
            wide_row, wide_column = jnp.expand_dims(row, old.columns), jnp.expand_dims(column, old.rows)
            wide_row /= jnp.mean(wide_row, axis=old.rows, keepdims=True)
            update, new = (
                grad * jax.lax.rsqrt(wide_row) * jax.lax.rsqrt(wide_column),
                old.replace(row=row, column=column),
            )
        else:
            full = blend(old.full, jnp.square(grad) + epsilon1)
            update, new = grad * jax.lax.rsqrt(full), old.replace(full=full)
        if clipping_threshold is not None:
            update /= jnp.maximum(1.0, rms(update, within) / clipping_threshold)
        if multiply_by_parameter_scale:
            update *= jnp.maximum(epsilon2, rms(param.astype(jnp.float32), within))
        if momentum is not None:
            update = momentum * old.momentum + (1.0 - momentum) * update
            new = new.replace(momentum=update)
        return update.astype(param.dtype), new

    def update(grads: Any, state: AdafactorState, params: Any) -> tuple[Any, AdafactorState]:
        t = (state.count + 1 - step_offset).astype(jnp.float32)
        keep = 1.0 - jnp.maximum(t, 1.0) ** -decay_rate
        leaves: list[jax.Array]
        tree: Any
        leaves, tree = jax.tree.flatten(grads)
        moments = tree.flatten_up_to(state.moments)
        pairs = [step(g, m, p, keep) for g, m, p in zip(leaves, moments, tree.flatten_up_to(params), strict=True)]
        updates, moments = (tree.unflatten(column) for column in zip(*pairs, strict=True))
        return updates, AdafactorState(state.count + 1, moments)

    return optax.GradientTransformation(init, update)


def rms(x: jax.Array, dims: tuple[int, ...]) -> jax.Array:
    """The root mean square over `dims`, which keep size 1."""
    return jnp.sqrt(jnp.mean(jnp.square(x), axis=dims, keepdims=True))

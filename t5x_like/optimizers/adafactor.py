"""Adafactor's rule (Shazeer & Stern 2018) with T5X's semantics: which axes are factored is decided by their names."""

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
BATCH = frozenset({"layers", "expert"})  # each of these has statistics and scales of its own


@struct.dataclass
class Moment:
    """Statistics of one parameter: `row` and `column` means of a factored one, else `full`; () is what is not kept.

    `rows`, `columns` and `batch` are dims of the parameter.
    """

    row: Any
    column: Any
    full: Any
    momentum: Any
    rows: tuple[int, ...] = struct.field(pytree_node=False)
    columns: tuple[int, ...] = struct.field(pytree_node=False)
    batch: tuple[int, ...] = struct.field(pytree_node=False)


@struct.dataclass
class AdafactorState:
    count: jax.Array
    moments: Any


@dataclasses.dataclass(frozen=True)
class Dims:
    """The dims of a parameter by role; factored when rows and columns are both at least `smallest` long."""

    rows: tuple[int, ...]
    columns: tuple[int, ...]
    batch: tuple[int, ...]


def roles(names: tuple[str | None, ...], shape: tuple[int, ...], smallest: int) -> Dims:
    """Which dims of a parameter with these logical axes are averaged for the row and column statistics."""

    def dims(kind):
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
    """The update direction (to be multiplied by minus the learning rate).

    v = b v + (1 - b)(g^2 + epsilon1), b = 1 - t^-decay_rate, kept as row and column means; u = g / sqrt(v), divided by
    max(1, RMS(u) / clipping_threshold) and multiplied by max(epsilon2, RMS(parameter)).
    """

    def moment(param) -> Moment:
        boxed = isinstance(param, nn.LogicallyPartitioned)
        value = param.value if boxed else param
        names = tuple(param.names) if boxed else (None,) * value.ndim
        dims = roles(names, value.shape, min_dim_size_to_factor)

        def zeros(without: tuple[int, ...]):
            kept = [i for i in range(value.ndim) if i not in without]
            array = jnp.zeros([value.shape[i] for i in kept], jnp.float32)
            return param.replace(value=array, names=tuple(names[i] for i in kept)) if boxed else array

        kept = () if momentum is None else zeros(())
        if not dims.rows:
            return Moment((), (), zeros(()), kept, dims.rows, dims.columns, dims.batch)
        return Moment(zeros(dims.columns), zeros(dims.rows), (), kept, dims.rows, dims.columns, dims.batch)

    def init(params):
        is_boxed = lambda x: isinstance(x, nn.LogicallyPartitioned)  # noqa: E731
        return AdafactorState(jnp.zeros((), jnp.int32), jax.tree.map(moment, params, is_leaf=is_boxed))

    def step(grad, old: Moment, param, keep):
        """(direction, new moment); `keep` is how much of the old statistics stays."""
        grad = grad.astype(jnp.float32)
        square = jnp.square(grad) + epsilon1
        within = tuple(i for i in range(grad.ndim) if i not in old.batch)

        def blend(before, now):
            return keep * before + (1.0 - keep) * now

        if old.rows:
            row = blend(old.row, jnp.mean(square, axis=old.columns))
            column = blend(old.column, jnp.mean(square, axis=old.rows))
            wide_row, wide_column = jnp.expand_dims(row, old.columns), jnp.expand_dims(column, old.rows)
            wide_row /= jnp.mean(wide_row, axis=old.rows, keepdims=True)
            update, new = (
                grad * jax.lax.rsqrt(wide_row) * jax.lax.rsqrt(wide_column),
                old.replace(row=row, column=column),
            )
        else:
            full = blend(old.full, square)
            update, new = grad * jax.lax.rsqrt(full), old.replace(full=full)
        if clipping_threshold is not None:
            update /= jnp.maximum(1.0, rms(update, within) / clipping_threshold)
        if multiply_by_parameter_scale:
            update *= jnp.maximum(epsilon2, rms(param.astype(jnp.float32), within))
        if momentum is not None:
            update = momentum * old.momentum + (1.0 - momentum) * update
            new = new.replace(momentum=update)
        return update.astype(param.dtype), new

    def update(grads, state, params):
        t = (state.count + 1 - step_offset).astype(jnp.float32)
        keep = 1.0 - jnp.maximum(t, 1.0) ** -decay_rate
        leaves, tree = jax.tree.flatten(grads)
        moments = tree.flatten_up_to(state.moments)
        pairs = [step(g, m, p, keep) for g, m, p in zip(leaves, moments, tree.flatten_up_to(params), strict=True)]
        updates, moments = (tree.unflatten(column) for column in zip(*pairs, strict=True))
        return updates, AdafactorState(state.count + 1, moments)

    return optax.GradientTransformation(init, update)


def rms(x: jax.Array, dims: tuple[int, ...]) -> jax.Array:
    """Root of the mean square over `dims`, kept as dims of size 1."""
    return jnp.sqrt(jnp.mean(jnp.square(x), axis=dims, keepdims=True))

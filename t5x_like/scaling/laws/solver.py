"""Batched robust curve fits: Levenberg-Marquardt on a Huber objective, vmapped, in float64.

Minimises sum_i w_i rho(f(theta, x_i) - y_i), rho(r) = r^2 / 2 up to delta and delta (|r| - delta / 2) beyond, from many
starts or for many weights (bootstraps, held-out rows) at once. delta shrinks from coarse to its own value during a fit: a wide
Huber loss is least squares, which leads distant starts to the valley; a tiny delta gives L1. The problems have at most a dozen
parameters and a few hundred rows, so the curvature is cheap and a few dozen steps converge to full precision.
"""

import dataclasses
import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t5x_like.scaling.laws import float64

BATCH = 64  # problems per call: they fit into the processor's cache
ROW_MULTIPLE = 32  # rows are padded to a multiple of it, so that few shapes are compiled
STEPS, MAX_STAGES = 6, 64  # steps of a stage, stages of a fit
COARSE_STAGES = [(delta, 1.0) for delta in (1.0, 1.0, 1.0, 0.1, 0.1)]  # lead distant starts to the valley


@dataclasses.dataclass(frozen=True)
class Objective:
    """sum rho(residual) / divisor with Huber's rho; L1 is Huber with a tiny delta, divided by it."""

    name: str
    delta: float
    divisor: float = 1.0

    @property
    def deltas(self) -> list[float]:
        """At least three deltas, shrinking by half decades from 0.01 to the objective's own."""
        ladder = [0.01 * 10 ** (-i / 2) for i in range(20)]
        wider = [delta for delta in ladder if delta > 1.01 * self.delta]
        return wider + [self.delta] * max(3 - len(wider), 1)

    @property
    def near_stages(self) -> np.ndarray:
        """Stages (delta, bend; see `quadratic_model`) of a fit that starts near its optimum."""
        return np.array([(delta, bend) for delta in self.deltas for bend in (1.0, 0.0)])

    @property
    def all_stages(self) -> np.ndarray:
        """Stages of a fit from an arbitrary start."""
        return np.concatenate([COARSE_STAGES, self.near_stages])

    @property
    def polish_stages(self) -> np.ndarray:
        """Stages that converge to full precision, for the few best fits."""
        return np.repeat(self.near_stages, 2, axis=0)


HUBER = Objective("Huber, delta 1e-3, summed", 1e-3)
L1 = Objective("L1, summed", 1e-8, 1e-8)


def minimize(
    law: Callable,
    objective: Objective,
    theta_SP: np.ndarray,
    x_NK: np.ndarray,
    y_SN: np.ndarray,
    weights_SN: np.ndarray | float = 1.0,
    free_SP: np.ndarray | bool = True,
    stages: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Minimises from every start S; returns (theta_SP, objective_S). Parameters where `free_SP` is false stay fixed.

    `law(theta_P, x_K)` is the prediction for one row, on the scale of y. y, weights and `free_SP` are broadcast to all starts.
    """
    theta_SP = np.asarray(theta_SP, np.float64)
    starts, (rows, _) = len(theta_SP), x_NK.shape
    extra = -rows % ROW_MULTIPLE
    weights_SN, y_SN = (np.broadcast_to(np.asarray(each, np.float64), (starts, rows)) for each in (weights_SN, y_SN))
    weights_SN, y_SN = np.pad(weights_SN, ((0, 0), (0, extra))), np.pad(y_SN, ((0, 0), (0, extra)), mode="edge")
    x_NK = np.pad(x_NK, ((0, extra), (0, 0)), mode="edge")
    free_SP = np.broadcast_to(free_SP, theta_SP.shape).astype(np.float64)
    stages = objective.all_stages if stages is None else stages
    count, stages = len(stages), np.resize(stages, (MAX_STAGES, 2))

    def solve_from(first: int) -> tuple[np.ndarray, np.ndarray]:
        problems = (pad_batch(each[first : first + BATCH]) for each in (theta_SP, weights_SN, free_SP, y_SN))
        with float64.on_host():
            return jax.device_get(solve_batch(law, *problems, x_NK, stages, count))

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        results = list(threads.map(solve_from, range(0, starts, BATCH)))
    theta_SP, value_S = (np.concatenate([each[k] for each in results])[:starts] for k in (0, 1))
    return theta_SP, value_S / objective.divisor


def minimize_merging(
    law: Callable, objective: Objective, theta_SP: np.ndarray, x_NK: np.ndarray, y_N: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """`minimize` from many starts; those that meet after the coarse stages are merged and share one result."""
    first = len(COARSE_STAGES) + 2
    theta_SP, _ = minimize(law, objective, theta_SP, x_NK, y_N, stages=objective.all_stages[:first])
    _, distinct, inverse = np.unique(theta_SP.round(6), axis=0, return_index=True, return_inverse=True)
    theta_SP, value_S = minimize(law, objective, theta_SP[distinct], x_NK, y_N, stages=objective.all_stages[first:])
    return theta_SP[inverse], value_S[inverse]


def pad_batch(problems: np.ndarray) -> np.ndarray:
    """Pads to a full batch by repeating the last problem."""
    return np.concatenate([problems, np.repeat(problems[-1:], BATCH - len(problems), axis=0)])


@functools.partial(jax.jit, static_argnums=0)
def solve_batch(
    law: Callable,
    theta_SP: jax.Array,
    weights_SN: jax.Array,
    free_SP: jax.Array,
    y_SN: jax.Array,
    x_NK: jax.Array,
    stages: jax.Array,
    count: int,
) -> tuple[jax.Array, jax.Array]:
    """Runs every problem of a batch through the first `count` stages."""
    solve_one = functools.partial(descend, law)
    return jax.vmap(solve_one, in_axes=(0, 0, 0, 0, None, None, None))(
        theta_SP, weights_SN, free_SP, y_SN, x_NK, stages, count
    )


def descend(
    law: Callable,
    theta_P: jax.Array,
    w_N: jax.Array,
    free_P: jax.Array,
    y_N: jax.Array,
    x_NK: jax.Array,
    stages: jax.Array,
    count: int,
) -> tuple[jax.Array, jax.Array]:
    """Runs Levenberg-Marquardt on one problem, stage by stage; returns (theta, objective at the last stage's delta)."""

    def run_stage(theta_P: jax.Array, setting: jax.Array) -> tuple[jax.Array, jax.Array]:
        at = functools.partial(quadratic_model, law, w_N=w_N, x_NK=x_NK, y_N=y_N, delta=setting[0], bend=setting[1])

        def step(_: jax.Array, state: tuple) -> tuple:
            theta_P, (value, gradient_P, curvature_PP), damping = state
            diagonal_P = jnp.diagonal(curvature_PP)
            floor_P = jnp.maximum(diagonal_P, 1e-9 * jnp.max(diagonal_P) + 1e-30)
            held_PP = curvature_PP * free_P[:, None] * free_P + jnp.diag(damping * floor_P + (1 - free_P))
            near_P = theta_P - jnp.clip(solve_cholesky(held_PP, gradient_P * free_P), -2.0, 2.0)
            proposal = at(near_P)
            better = proposal[0] < value
            accepted = jax.tree.map(functools.partial(jnp.where, better), (near_P, proposal), (theta_P, state[1]))
            return *accepted, jnp.where(better, jnp.maximum(damping / 5, 1e-12), jnp.minimum(damping * 4, 1e9))

        theta_P, (value, *_), _ = jax.lax.fori_loop(0, STEPS, step, (theta_P, at(theta_P), 1e-3))
        return theta_P, value

    first = (theta_P, jnp.zeros(()))
    return jax.lax.fori_loop(0, count, lambda i, state: run_stage(state[0], stages[i]), first)


def quadratic_model(
    law: Callable,
    theta_P: jax.Array,
    *,
    w_N: jax.Array,
    x_NK: jax.Array,
    y_N: jax.Array,
    delta: jax.Array,
    bend: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the objective, its gradient and a Gauss-Newton curvature; rows beyond delta weigh `bend` delta / |residual|.

    With `bend` 1 that is reweighted least squares, whose parabola lies above the objective: slow but safe. With 0 it is
    Huber's own second derivative: fast near the optimum.
    """

    def prediction(theta_P: jax.Array) -> jax.Array:
        return jax.vmap(law, in_axes=(None, 0))(theta_P, x_NK)

    residual_N, slope_NP = prediction(theta_P) - y_N, jax.jacfwd(prediction)(theta_P)
    size_N = jnp.abs(residual_N)
    inside_N = size_N <= delta
    value = w_N @ jnp.where(inside_N, 0.5 * residual_N**2, delta * (size_N - 0.5 * delta))
    gradient_P = slope_NP.T @ (w_N * jnp.clip(residual_N, -delta, delta))
    weight_N = w_N * jnp.where(inside_N, 1.0, bend * delta / jnp.maximum(size_N, delta))
    return jnp.where(jnp.isfinite(value), value, jnp.inf), gradient_P, (slope_NP * weight_N[:, None]).T @ slope_NP


def solve_cholesky(matrix_PP: jax.Array, vector_P: jax.Array) -> jax.Array:
    """Solves a positive definite system by an unrolled Cholesky factorisation: LAPACK calls cost more than 5 x 5 arithmetic."""
    count = len(vector_P)
    lower: list[list[Any]] = [[None] * count for _ in range(count)]
    for i in range(count):
        for j in range(i + 1):
            rest = matrix_PP[i, j] - sum(lower[i][k] * lower[j][k] for k in range(j))
            lower[i][j] = jnp.sqrt(jnp.maximum(rest, 1e-200)) if i == j else rest / lower[j][j]
    forward: list[Any] = []
    solution: list[Any] = [None] * count
    for i in range(count):
        forward.append((vector_P[i] - sum(lower[i][k] * forward[k] for k in range(i))) / lower[i][i])
    for i in reversed(range(count)):
        solution[i] = (forward[i] - sum(lower[k][i] * solution[k] for k in range(i + 1, count))) / lower[i][i]
    return jnp.stack(solution)

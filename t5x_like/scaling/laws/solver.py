"""Robust curve fits by the thousand: Levenberg-Marquardt on a Huber objective, batched by vmap, in float64.

Minimises sum_i w_i rho(f(theta, x_i) - y_i), rho(r) = r^2 / 2 up to delta and delta (|r| - delta / 2) beyond, from many
starts or for many weights (bootstraps, left-out rows) at once. delta shrinks from coarse to its own value on the way: a wide
Huber is least squares, which leads starts to the valley; a tiny one is L1. The problems have at most a dozen parameters and
some hundred rows, so curvature costs next to nothing, and a few dozen steps reach the optimum to the last digits.
"""

import dataclasses
import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np

from t5x_like.scaling.laws import float64

BATCH = 64  # problems a call: they stay in the processor's cache
ROWS = 32  # rows are padded to a multiple, so that there are few shapes to compile
STEPS, STAGES = 6, 64  # of a stage, and the most stages of a fit
COARSE = [(delta, 1.0) for delta in (1.0, 1.0, 1.0, 0.1, 0.1)]  # what leads far starts to the valley


@dataclasses.dataclass(frozen=True)
class Objective:
    """sum rho(residual) with Huber's rho; `divisor` gives it its usual scale (L1 is Huber with a tiny delta, over it)."""

    name: str
    delta: float
    divisor: float = 1.0

    @property
    def deltas(self) -> list[float]:
        """From near to an optimum down to the objective's own delta, by half decades; three or more, its own the last."""
        ladder = [0.01 * 10 ** (-i / 2) for i in range(20)]
        wider = [delta for delta in ladder if delta > 1.01 * self.delta]
        return wider + [self.delta] * max(3 - len(wider), 1)

    @property
    def close(self) -> np.ndarray:
        """Stages (delta, how much rows beyond it bend) of a fit that starts near its optimum."""
        return np.array([(delta, bend) for delta in self.deltas for bend in (1.0, 0.0)])

    @property
    def anywhere(self) -> np.ndarray:
        """Stages of a fit that starts anywhere."""
        return np.concatenate([COARSE, self.close])

    @property
    def polish(self) -> np.ndarray:
        """Stages that end at the last digits, for the few best fits."""
        return np.repeat(self.close, 2, axis=0)

    def rho(self, residuals: np.ndarray) -> np.ndarray:
        """The objective of every residual."""
        size = np.abs(residuals)
        wide = self.delta * (size - 0.5 * self.delta)
        return np.where(size <= self.delta, 0.5 * size**2, wide) / self.divisor


HUBER = Objective("Huber, delta 1e-3, summed", 1e-3)
L1 = Objective("L1, summed", 1e-8, 1e-8)


def minimize(law: Callable, objective: Objective, theta_SP, x_NK, y_SN, weights_SN=1.0, free_SP=True, stages=None):
    """(theta_SP, objective_S): every start S led to its optimum; parameters where `free_SP` is false stay as they are.

    `law(theta_P, x_K)` is the prediction for one row, on the scale of y. y, weights and `free_SP` are broadcast to all starts.
    """
    theta_SP = np.asarray(theta_SP, np.float64)
    starts, (rows, _) = len(theta_SP), x_NK.shape
    more = -rows % ROWS
    weights_SN, y_SN = (np.broadcast_to(np.asarray(each, np.float64), (starts, rows)) for each in (weights_SN, y_SN))
    weights_SN, y_SN = np.pad(weights_SN, ((0, 0), (0, more))), np.pad(y_SN, ((0, 0), (0, more)), mode="edge")
    x_NK = np.pad(x_NK, ((0, more), (0, 0)), mode="edge")
    free_SP = np.broadcast_to(free_SP, theta_SP.shape).astype(np.float64)
    stages = objective.anywhere if stages is None else stages
    count, stages = len(stages), np.resize(stages, (STAGES, 2))

    def solved(first: int):
        problems = (padded(each[first : first + BATCH]) for each in (theta_SP, weights_SN, free_SP, y_SN))
        with float64.on_host():
            return jax.device_get(batch(law, *problems, x_NK, stages, count))

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        done = list(threads.map(solved, range(0, starts, BATCH)))
    theta_SP, value_S = (np.concatenate([each[k] for each in done])[:starts] for k in (0, 1))
    return theta_SP, value_S / objective.divisor


def minimize_merging(law: Callable, objective: Objective, theta_SP, x_NK, y_N):
    """`minimize` from many starts at once: those that meet on the way go on as one, and get one result."""
    first = len(COARSE) + 2
    theta_SP, _ = minimize(law, objective, theta_SP, x_NK, y_N, stages=objective.anywhere[:first])
    _, chosen, which = np.unique(theta_SP.round(6), axis=0, return_index=True, return_inverse=True)
    theta_SP, value_S = minimize(law, objective, theta_SP[chosen], x_NK, y_N, stages=objective.anywhere[first:])
    return theta_SP[which], value_S[which]


def padded(problems: np.ndarray) -> np.ndarray:
    """A whole batch, the last problem repeated."""
    return np.concatenate([problems, np.repeat(problems[-1:], BATCH - len(problems), axis=0)])


@functools.partial(jax.jit, static_argnums=0)
def batch(law: Callable, theta_SP, weights_SN, free_SP, y_SN, x_NK, stages, count):
    """Every problem of a batch taken through the stages."""
    one = functools.partial(descend, law)
    return jax.vmap(one, in_axes=(0, 0, 0, 0, None, None, None))(
        theta_SP, weights_SN, free_SP, y_SN, x_NK, stages, count
    )


def descend(law: Callable, theta_P, w_N, free_P, y_N, x_NK, stages, count):
    """Levenberg-Marquardt on one problem, stage by stage; (theta, objective at the last stage's delta)."""

    def stage(theta_P, setting):
        at = functools.partial(quadratic, law, w_N=w_N, x_NK=x_NK, y_N=y_N, delta=setting[0], bend=setting[1])

        def step(_, state):
            theta_P, (value, gradient_P, curvature_PP), damping = state
            diagonal_P = jnp.diagonal(curvature_PP)
            floor_P = jnp.maximum(diagonal_P, 1e-9 * jnp.max(diagonal_P) + 1e-30)
            held_PP = curvature_PP * free_P[:, None] * free_P + jnp.diag(damping * floor_P + (1 - free_P))
            near_P = theta_P - jnp.clip(solve(held_PP, gradient_P * free_P), -2.0, 2.0)
            found = at(near_P)
            better = found[0] < value
            kept = jax.tree.map(functools.partial(jnp.where, better), (near_P, found), (theta_P, state[1]))
            return *kept, jnp.where(better, jnp.maximum(damping / 5, 1e-12), jnp.minimum(damping * 4, 1e9))

        theta_P, (value, *_), _ = jax.lax.fori_loop(0, STEPS, step, (theta_P, at(theta_P), 1e-3))
        return theta_P, value

    first = (theta_P, jnp.zeros(()))
    return jax.lax.fori_loop(0, count, lambda i, state: stage(state[0], stages[i]), first)


def quadratic(law: Callable, theta_P, *, w_N, x_NK, y_N, delta, bend):
    """The objective, its gradient and a curvature: Gauss-Newton's, rows beyond delta counting `bend` delta / |residual|.

    With `bend` 1 that is reweighted least squares, whose parabola lies above the objective: slow and sure. With 0 it is
    Huber's own second derivative: quick, near the optimum.
    """

    def prediction(theta_P):
        return jax.vmap(law, in_axes=(None, 0))(theta_P, x_NK)

    residual_N, slope_NP = prediction(theta_P) - y_N, jax.jacfwd(prediction)(theta_P)
    size_N = jnp.abs(residual_N)
    inside_N = size_N <= delta
    value = w_N @ jnp.where(inside_N, 0.5 * residual_N**2, delta * (size_N - 0.5 * delta))
    gradient_P = slope_NP.T @ (w_N * jnp.clip(residual_N, -delta, delta))
    weight_N = w_N * jnp.where(inside_N, 1.0, bend * delta / jnp.maximum(size_N, delta))
    return jnp.where(jnp.isfinite(value), value, jnp.inf), gradient_P, (slope_NP * weight_N[:, None]).T @ slope_NP


def solve(matrix_PP, vector_P):
    """The solution for a positive definite matrix, by Cholesky written out: LAPACK's calls cost more than 5 x 5 numbers do."""
    count = len(vector_P)
    lower = [[None] * count for _ in range(count)]
    for i in range(count):
        for j in range(i + 1):
            rest = matrix_PP[i, j] - sum(lower[i][k] * lower[j][k] for k in range(j))
            lower[i][j] = jnp.sqrt(jnp.maximum(rest, 1e-200)) if i == j else rest / lower[j][j]
    half, whole = [], [None] * count
    for i in range(count):
        half.append((vector_P[i] - sum(lower[i][k] * half[k] for k in range(i))) / lower[i][i])
    for i in reversed(range(count)):
        whole[i] = (half[i] - sum(lower[k][i] * whole[k] for k in range(i + 1, count))) / lower[i][i]
    return jnp.stack(whole)

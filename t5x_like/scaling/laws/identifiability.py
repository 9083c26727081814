"""Identifiability of parameters: profiles of the objective, and the condition number of its curvature.

A profile holds one parameter at values around its optimum and refits the others. The profile interval ends where the rise of
the objective becomes significant (chi-squared with one degree of freedom, for Huber's objective scaled by E[psi'] / E[psi^2]).
A side on which it never rises that far is open: any value there fits as well, and the table does not identify the parameter.
"""

import dataclasses
import math
import statistics

import jax
import numpy as np

from t5x_like.scaling.laws import float64, solver
from t5x_like.scaling.laws.laws import Law, evaluate
from t5x_like.scaling.laws.solver import Objective

OFFSETS = 0.01 * 2.0 ** np.arange(10)  # from the optimum, in theta: up to 5.12, a factor of 170 if theta is a log


@dataclasses.dataclass(frozen=True)
class Identification:
    """Per parameter the profile interval in theta (infinite if open) and why it is not identified (else ""); the condition."""

    low: tuple[float, ...]
    high: tuple[float, ...]
    reasons: tuple[str, ...]
    condition: float


def check_identification(
    law: Law, objective: Objective, theta_P: np.ndarray, x_NK: np.ndarray, y_N: np.ndarray, level: float = 0.95
) -> Identification:
    """Profiles every parameter on both sides of the optimum `theta_P`."""
    rise_PO = profile_parameters(law, objective, theta_P, x_NK, y_N)
    limit = statistics.NormalDist().inv_cdf((1 + level) / 2)
    sides = [find_crossing(rise_PO[i, side], limit) for i in range(len(theta_P)) for side in (0, 1)]
    low = tuple(float(theta_P[i] - sides[2 * i]) for i in range(len(theta_P)))
    high = tuple(float(theta_P[i] + sides[2 * i + 1]) for i in range(len(theta_P)))
    confounding = explain_confounding(law, x_NK)
    reasons = tuple(
        explain_profile(name, law, low[i], high[i]) or ("" if name == "E" else confounding)
        for i, name in enumerate(law.parameters)
    )
    return Identification(low, high, reasons, condition_number(law, theta_P, x_NK))


def profile_parameters(
    law: Law, objective: Objective, theta_P: np.ndarray, x_NK: np.ndarray, y_N: np.ndarray
) -> np.ndarray:
    """Returns square roots of the likelihood-ratio statistic, [parameter, side, offset of OFFSETS]."""
    count, identity = len(theta_P), np.eye(len(theta_P))
    moves_SP = np.concatenate([sign * OFFSETS[:, None] * identity[i] for i in range(count) for sign in (-1, 1)])
    free_SP = np.repeat(1 - identity, 2 * len(OFFSETS), axis=0)
    starts_SP = np.concatenate([theta_P[None], theta_P + moves_SP])
    free_SP = np.concatenate([np.ones((1, count)), free_SP])
    _, value_S = solver.minimize(law.function, objective, starts_SP, x_NK, y_N, free_SP=free_SP)
    rise_S = np.maximum(value_S[1:] - value_S.min(), 0.0)
    rise_S[~np.isfinite(rise_S)] = np.inf
    return np.sqrt(2 * rise_S * likelihood_scale(law, objective, theta_P, x_NK, y_N)).reshape(count, 2, len(OFFSETS))


def likelihood_scale(law: Law, objective: Objective, theta_P: np.ndarray, x_NK: np.ndarray, y_N: np.ndarray) -> float:
    """E[psi'] / E[psi^2] under normal residuals of the observed spread: scales twice the objective's rise to chi-squared."""
    residual_N = y_N - evaluate(law.function, theta_P[None], x_NK)[0]
    freedom = math.sqrt(len(y_N) / max(len(y_N) - len(theta_P), 1))
    spread = max(float(np.median(np.abs(residual_N))) / 0.6745 * freedom, 1e-12)
    k = objective.delta / spread
    inside = math.erf(k / math.sqrt(2))
    square = spread**2 * (inside - k * math.sqrt(2 / math.pi) * math.exp(-k * k / 2)) + objective.delta**2 * (
        1 - inside
    )
    return inside / max(square, 1e-300) * objective.divisor


def find_crossing(rise_O: np.ndarray, limit: float) -> float:
    """Returns the offset at which a profile first exceeds the limit, interpolated linearly; infinite if it never does."""
    above = np.flatnonzero(rise_O > limit)
    if not len(above):
        return math.inf
    i = above[0]
    before, at = (rise_O[i - 1], OFFSETS[i - 1]) if i else (0.0, 0.0)
    if not math.isfinite(rise_O[i]):
        return float(OFFSETS[i])
    return float(at + (OFFSETS[i] - at) * (limit - before) / (rise_O[i] - before))


def condition_number(law: Law, theta_P: np.ndarray, x_NK: np.ndarray) -> float:
    """Condition number of the curvature J^T J with columns scaled to unit length: 1 for uncorrelated parameters."""
    with float64.on_host():
        slope = jax.jit(jax.vmap(jax.jacfwd(law.function), (None, 0)))
        slope_NP = np.asarray(slope(np.asarray(theta_P, np.float64), x_NK))
    length_P = np.linalg.norm(slope_NP, axis=0)
    if not np.all(np.isfinite(length_P)) or np.any(length_P == 0):
        return math.inf
    values = np.linalg.svd(slope_NP / length_P, compute_uv=False)
    return float((values[0] / values[-1]) ** 2) if values[-1] > 0 else math.inf


def explain_confounding(law: Law, x_NK: np.ndarray) -> str:
    """Explains why the terms of two inputs cannot be told apart (one is a power of the other in these rows), or returns ""."""
    if law.log_linear or x_NK.shape[1] < 2 or not np.all(np.ptp(x_NK[:, :2], axis=0) > 0):
        return ""
    r = float(np.corrcoef(x_NK[:, :2].T)[0, 1])
    if abs(r) < 0.99:
        return ""
    first, second = law.inputs[:2]
    return (
        f"{first} and {second} vary together (correlation {r:.3f}), so their effects on the loss cannot be separated; vary "
        f"{second} at a fixed {first}"
    )


def explain_profile(name: str, law: Law, low: float, high: float) -> str:
    """Explains why a parameter with this profile interval is not identified, or returns ""."""
    remedy = "add more distinct input values over a wider range"
    if math.isinf(low) and math.isinf(high):
        return f"any value fits as well; {remedy}"
    if math.isinf(low) or math.isinf(high):
        return f"any {'smaller' if math.isinf(low) else 'larger'} value fits as well; {remedy}"
    if name not in law.positive and low < 0 < high and name in law.exponents:
        return f"its interval includes 0, where the term is a constant; {remedy}"
    return ""

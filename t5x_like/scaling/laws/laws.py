"""Scaling laws: one function and its initial grid per law.

A law's function maps parameters theta_P and the logs of its inputs x_K, for one row, to the log of the target (to the target
itself if `log_target` is false). Constants that must be positive (E, A, B, N_c, ...) enter theta as their logs, exponents
unchanged; `Law.constants` turns theta into what papers print. Grids are centred on the table itself, with each term a share of
the loss at the mean of its input, so tables of any scale, unit or tokenizer start equally well.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from t5x_like.scaling.laws import float64
from t5x_like.scaling.laws.table import Table

Vector = jax.Array | Sequence[jax.Array]  # theta_P or x_K
PF_DAY = 8.64e19  # FLOPs; the unit of compute in Kaplan et al. 2020


@dataclasses.dataclass(frozen=True)
class Law:
    """target = function(inputs). `positive` are the parameters fitted as logs; a `log_linear` law is a line in logs."""

    name: str
    equation: str
    source: str
    parameters: tuple[str, ...]
    positive: tuple[str, ...]
    inputs: tuple[str, ...]
    function: Callable[[Any, Any], jax.Array]  # (theta_P, x_K) -> y
    grid: Callable[[np.ndarray, np.ndarray], np.ndarray]  # (x_NK, y_N) -> theta_SP
    target: str = "loss"
    log_target: bool = True
    log_linear: bool = False

    @property
    def exponents(self) -> tuple[str, ...]:
        """Exponents of inputs, of laws with an additive constant: a term whose exponent is 0 is a constant too."""
        return () if self.log_linear else tuple(x for x in self.parameters if x not in (*self.positive, "low", "high"))

    @property
    def min_rows(self) -> int:
        """The fewest rows that leave residuals to estimate the noise from: a line needs fewer than a curve."""
        return len(self.parameters) + (1 if self.log_linear else 3)

    def features(self, columns: Mapping[str, ArrayLike] | Table) -> np.ndarray:
        """Returns x_NK, the logs of the inputs."""
        return np.log(np.stack([np.asarray(columns[name], np.float64) for name in self.inputs], axis=-1))

    def targets(self, table: Table) -> np.ndarray:
        """Returns y_N, the targets on the scale of the fit."""
        return np.log(table[self.target]) if self.log_target else table[self.target]

    def inverse_transform(self, y: np.ndarray) -> np.ndarray:
        """Converts y to the target's own scale."""
        return np.exp(y) if self.log_target else y

    def values(self, theta: np.ndarray) -> np.ndarray:
        """Returns constants [..., P] as papers print them, for theta [..., P]."""
        logs = np.array([name in self.positive for name in self.parameters])
        with np.errstate(over="ignore"):
            return np.where(logs, np.exp(theta), theta)

    def constants(self, theta: np.ndarray) -> dict[str, float]:
        """Returns the constants of theta [P] by name."""
        return dict(zip(self.parameters, self.values(theta).tolist(), strict=True))

    def theta(self, constants: Mapping[str, float]) -> np.ndarray:
        """Returns theta [P] of these constants, the inverse of `constants`."""
        return np.array([np.log(constants[x]) if x in self.positive else constants[x] for x in self.parameters])

    def predict(self, theta_SP: np.ndarray, columns: Mapping[str, ArrayLike] | Table) -> np.ndarray:
        """Predicts the target for every theta and row, [S, N], in float64."""
        theta_SP = np.atleast_2d(np.asarray(theta_SP, np.float64))
        return self.inverse_transform(evaluate(self.function, theta_SP, self.features(columns)))


def evaluate(function: Callable, theta_SP: np.ndarray, x_NK: np.ndarray) -> np.ndarray:
    """Evaluates a law's function for every theta and row, [S, N], on the scale of y."""
    with float64.on_host():
        return np.asarray(evaluate_pairs(function, theta_SP, x_NK))


@jax.jit(static_argnums=0)
def evaluate_pairs(function: Callable, theta_SP: jax.Array, x_NK: jax.Array) -> jax.Array:
    """The compiled part of `evaluate`."""
    return jax.vmap(jax.vmap(function, (None, 0)), (0, None))(theta_SP, x_NK)


def log_sum_exp(*terms: jax.Array) -> jax.Array:
    """log(sum(exp(terms))), with a finite gradient for every term."""
    top = terms[0]
    for term in terms[1:]:
        top = jnp.maximum(top, term)
    top = jax.lax.stop_gradient(top)
    return top + jnp.log(sum(jnp.exp(term - top) for term in terms))


def cartesian_product(*axes: Sequence[float] | np.ndarray) -> np.ndarray:
    """Returns every combination of values, one per row."""
    return np.array(list(itertools.product(*axes)))


FLOOR = np.log([0.1, 0.3, 0.5, 0.7, 0.9])  # irreducible loss, as a share of the loss
TERM = np.log([0.01, 0.03, 0.1, 0.3, 0.6, 1.0])  # a term, as a share of the loss
EXPONENT = np.array([0.1, 0.25, 0.5, 0.9, 1.4])


def chinchilla(theta_P: Vector, x_K: Vector) -> jax.Array:
    """log(E + A / N^alpha + B / D^beta)."""
    e, a, b, alpha, beta = theta_P
    return log_sum_exp(e, a - alpha * x_K[0], b - beta * x_K[1])


def chinchilla_grid(x_NK: np.ndarray, y_N: np.ndarray) -> np.ndarray:
    """Returns 5 x 6 x 6 x 5 x 5 = 4500 starts."""
    (n, d), y = x_NK.mean(0), y_N.mean()
    e, a, b, alpha, beta = cartesian_product(FLOOR, TERM, TERM, EXPONENT, EXPONENT).T
    return np.stack([y + e, y + a + alpha * n, y + b + beta * d, alpha, beta], axis=-1)


CHINCHILLA = Law(
    "chinchilla",
    "L = E + A / N^alpha + B / D^beta",
    "Hoffmann et al. 2022, approach 3",
    ("E", "A", "B", "alpha", "beta"),
    ("E", "A", "B"),
    ("n_params", "tokens"),
    chinchilla,
    chinchilla_grid,
)


def chinchilla_tied(theta_P: Vector, x_K: Vector) -> jax.Array:
    """log(E + A / N^alpha + B / D^alpha)."""
    e, a, b, alpha = theta_P
    return log_sum_exp(e, a - alpha * x_K[0], b - alpha * x_K[1])


def chinchilla_tied_grid(x_NK: np.ndarray, y_N: np.ndarray) -> np.ndarray:
    """Returns 900 starts."""
    (n, d), y = x_NK.mean(0), y_N.mean()
    e, a, b, alpha = cartesian_product(FLOOR, TERM, TERM, EXPONENT).T
    return np.stack([y + e, y + a + alpha * n, y + b + alpha * d, alpha], axis=-1)


CHINCHILLA_TIED = Law(
    "chinchilla_tied",
    "L = E + A / N^alpha + B / D^alpha",
    "Muennighoff et al. 2023, section 3",
    ("E", "A", "B", "alpha"),
    ("E", "A", "B"),
    ("n_params", "tokens"),
    chinchilla_tied,
    chinchilla_tied_grid,
)


def ratio_power(theta_P: Vector, x_K: Vector) -> jax.Array:
    """alpha log(X_c / X)."""
    return theta_P[1] * (theta_P[0] - x_K[0])


def ratio_power_grid(x_NK: np.ndarray, y_N: np.ndarray) -> np.ndarray:
    """Returns 64 starts."""
    alpha = np.geomspace(0.01, 2.0, 64)
    return np.stack([x_NK.mean() + y_N.mean() / alpha, alpha], axis=-1)


def kaplan_law(letter: str, column: str) -> Law:
    """Returns one of Kaplan's power laws of a single input."""
    return Law(
        f"kaplan_{letter.lower()}",
        f"L = ({letter}_c / {letter})^alpha_{letter}",
        "Kaplan et al. 2020, equations 1.1-1.3" + (" (there in PF-days of 8.64e19 FLOPs)" if letter == "C" else ""),
        (f"{letter}_c", f"alpha_{letter}"),
        (f"{letter}_c",),
        (column,),
        ratio_power,
        ratio_power_grid,
        log_linear=True,
    )


KAPLAN_N, KAPLAN_D, KAPLAN_C = (
    kaplan_law("N", "n_params"),
    kaplan_law("D", "tokens"),
    kaplan_law("C", "flops_6nd"),
)


def kaplan_nd(theta_P: Vector, x_K: Vector) -> jax.Array:
    """alpha_D log((N_c / N)^(alpha_N / alpha_D) + D_c / D)."""
    n, d, alpha_n, alpha_d = theta_P
    return alpha_d * log_sum_exp(alpha_n / alpha_d * (n - x_K[0]), d - x_K[1])


def kaplan_nd_grid(x_NK: np.ndarray, y_N: np.ndarray) -> np.ndarray:
    """Returns 320 starts."""
    (n, d), y = x_NK.mean(0), y_N.mean()
    alpha_n, alpha_d, share = cartesian_product(
        np.geomspace(0.03, 1, 8), np.geomspace(0.03, 1, 8), [0.1, 0.3, 0.5, 0.7, 0.9]
    ).T
    n_c = n + alpha_d / alpha_n * (y / alpha_d + np.log(share))
    return np.stack([n_c, d + y / alpha_d + np.log1p(-share), alpha_n, alpha_d], axis=-1)


KAPLAN_ND = Law(
    "kaplan_nd",
    "L = ((N_c / N)^(alpha_N / alpha_D) + D_c / D)^alpha_D",
    "Kaplan et al. 2020, equation 1.5",
    ("N_c", "D_c", "alpha_N", "alpha_D"),
    ("N_c", "D_c"),
    ("n_params", "tokens"),
    kaplan_nd,
    kaplan_nd_grid,
)


def offset_power(theta_P: Vector, x_K: Vector) -> jax.Array:
    """log(E + k / X^p)."""
    e, k, p = theta_P
    return log_sum_exp(e, k - p * x_K[0])


def offset_power_grid(x_NK: np.ndarray, y_N: np.ndarray) -> np.ndarray:
    """Returns 270 starts."""
    e, k, p = cartesian_product(FLOOR, TERM, np.geomspace(0.03, 1.5, 9)).T
    return np.stack([y_N.mean() + e, y_N.mean() + k + p * x_NK.mean(), p], axis=-1)


LOSS_VS_COMPUTE = Law(
    "loss_vs_compute",
    "L = E + k / C^p",
    "Henighan et al. 2020; OpenAI 2023 (GPT-4, predictable scaling)",
    ("E", "k", "p"),
    ("E", "k"),
    ("flops_6nd",),
    offset_power,
    offset_power_grid,
)


def data_constrained(theta_P: Vector, x_K: Vector) -> jax.Array:
    """log(E + A / N'^alpha + B / D'^beta), with effective N' and D'; inputs N, D and the unique tokens U.

    D' = U + U R_D (1 - exp(-(D / U - 1) / R_D)), and likewise N' with R_N beyond the N for which U unique tokens are optimal.
    """
    e, a, b, alpha, beta, r_d, r_n = theta_P
    n, d, u = x_K
    u = jnp.minimum(u, d)
    best_n = (jnp.log(alpha) + a - jnp.log(beta) - b + beta * u) / alpha
    return chinchilla(
        (e, a, b, alpha, beta), (effective_log_count(n, jnp.minimum(n, best_n), r_n), effective_log_count(d, u, r_d))
    )


def effective_log_count(x: jax.Array, fresh: jax.Array, r: jax.Array) -> jax.Array:
    """log(U + U R (1 - exp(-(X / U - 1) / R))), given the logs of X, U and R."""
    over = jnp.exp(x - fresh) - 1.0
    return fresh + jnp.log1p(jnp.exp(r) * -jnp.expm1(-over / jnp.exp(r)))


def data_constrained_grid(x_NK: np.ndarray, y_N: np.ndarray) -> np.ndarray:
    """Returns 1024 starts."""
    plain = chinchilla_grid(x_NK[:, :2], y_N).reshape(5, 6, 6, 5, 5, 5)[1::2, 1:5, 1:5, :4, :4].reshape(-1, 5)
    decay = cartesian_product(np.log([5.0, 30.0]), np.log([5.0]))
    return np.concatenate([np.repeat(plain, len(decay), 0), np.tile(decay, (len(plain), 1))], axis=-1)


DATA_CONSTRAINED = Law(
    "data_constrained",
    "L = E + A / N'^alpha + B / D'^beta, D' = U + U R_D (1 - exp(-(D / U - 1) / R_D)), N' likewise with R_N",
    "Muennighoff et al. 2023",
    (*CHINCHILLA.parameters, "R_D", "R_N"),
    (*CHINCHILLA.positive, "R_D", "R_N"),
    ("n_params", "tokens", "unique_tokens"),
    data_constrained,
    data_constrained_grid,
)


def power_product(theta_P: Vector, x_K: Vector) -> jax.Array:
    """log k + sum p_i log X_i."""
    return theta_P[0] + sum(p * x for p, x in zip(theta_P[1:], x_K, strict=True))


def power_product_grid(x_NK: np.ndarray, y_N: np.ndarray) -> np.ndarray:
    """Starts at the least-squares solution and at tilted copies of it: the problem is convex."""
    design = np.concatenate([np.ones((len(x_NK), 1)), x_NK], axis=-1)
    middle = np.linalg.lstsq(design, y_N, rcond=None)[0]
    tilts = cartesian_product(*[[-0.3, 0.0, 0.3]] * x_NK.shape[1])
    return np.concatenate([(middle[0] - tilts @ x_NK.mean(0))[:, None], middle[1:] + tilts], axis=-1)


def power_law(target: str, *inputs: str, source: str = "") -> Law:
    """Returns the law target = k prod X_i^p_i."""
    names = tuple("p" if len(inputs) == 1 else f"p_{name}" for name in inputs)
    text = " ".join(f"{name}^{p}" for name, p in zip(inputs, names, strict=True))
    law = Law(
        f"{target}_power",
        f"{target} = k {text}",
        source,
        ("k", *names),
        ("k",),
        inputs,
        power_product,
        power_product_grid,
    )
    return dataclasses.replace(law, target=target, log_linear=True)


def broken_power(theta_P: Vector, x_K: Vector) -> jax.Array:
    """log(a + b X^-c0 (1 + (X / d)^(1/f))^(-c1 f))."""
    a, b, c0, c1, d, f = theta_P
    sharp = jnp.exp(f)
    return log_sum_exp(a, b - c0 * x_K[0] - c1 * sharp * jax.nn.softplus((x_K[0] - d) / sharp))


def broken_power_grid(x_NK: np.ndarray, y_N: np.ndarray) -> np.ndarray:
    """Returns 432 starts."""
    x, y = x_NK[:, 0], y_N.mean()
    places = np.quantile(x, [0.2, 0.4, 0.6, 0.8])
    a, b, c0, c1, d, f = cartesian_product(
        np.log([0.05, 0.3, 0.7]), np.log([0.3, 1.0]), [0.02, 0.1, 0.3], [-0.2, 0.1, 0.5], places, np.log([0.1, 0.5])
    ).T
    return np.stack([y + a, y + b + c0 * x.mean() + np.maximum(0, c1 * (x.mean() - d)), c0, c1, d, f], axis=-1)


BROKEN = Law(
    "broken",
    "L = a + b X^-c0 (1 + (X / d)^(1/f))^(-c1 f)",
    "Caballero et al. 2023, one break",
    ("a", "b", "c0", "c1", "d", "f"),
    ("a", "b", "d", "f"),
    ("flops_6nd",),
    broken_power,
    broken_power_grid,
)


def sigmoid(theta_P: Vector, x_K: Vector) -> jax.Array:
    """low + (high - low) / (1 + exp(k (L - middle)))."""
    low, high, k, middle = theta_P
    return low + (high - low) * jax.nn.sigmoid(jnp.exp(k) * (jnp.exp(middle) - jnp.exp(x_K[0])))


def sigmoid_grid(x_NK: np.ndarray, y_N: np.ndarray) -> np.ndarray:
    """Plateaus at the table's extremes and at 0 and 1, middles between its losses."""
    losses = np.log(np.quantile(np.exp(x_NK[:, 0]), np.linspace(0.05, 0.95, 7)))
    spread = max(np.ptp(np.exp(x_NK[:, 0])), 1e-3)
    return cartesian_product([0.0, y_N.min()], [y_N.max(), 1.0], np.log(np.geomspace(1, 60, 8) / spread), losses)


SIGMOID = Law(
    "sigmoid",
    "accuracy = low + (high - low) / (1 + exp(k (L - middle)))",
    "Grattafiori et al. 2024 (Llama 3, section 3.2.1); Bhagia et al. 2024",
    ("low", "high", "k", "middle"),
    ("k", "middle"),
    ("loss",),
    sigmoid,
    sigmoid_grid,
    target="accuracy",
    log_target=False,
)

ALL_LAWS = (
    CHINCHILLA,
    CHINCHILLA_TIED,
    KAPLAN_N,
    KAPLAN_D,
    KAPLAN_C,
    KAPLAN_ND,
    LOSS_VS_COMPUTE,
    DATA_CONSTRAINED,
    BROKEN,
    SIGMOID,
)


def find_law(name: str, inputs: tuple[str, ...], target: str) -> Law:
    """Returns a law by its name, with these columns as its inputs and target.

    Raises:
      KeyError: no law has that name.
    """
    law = next((law for law in ALL_LAWS if law.name == name), None) or power_law(target, *inputs)
    if law.name != name:
        raise KeyError(name)
    return dataclasses.replace(law, inputs=inputs, target=target)

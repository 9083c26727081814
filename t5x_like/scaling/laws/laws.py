"""Scaling laws: for each one function and its initial grid.

A law's function maps parameters theta_P and the logs of its inputs x_K, for one row, to the log of the target (to the target
itself where `log_target` is false). Constants that must be positive (E, A, B, N_c, ...) enter theta as their logs, exponents
as they are; `Law.constants` turns theta into what papers print. Grids are laid around the table itself, each term a share of
the loss at the mean of its input, so tables of any scale, unit or tokenizer start equally well.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from t5x_like.scaling.laws import float64
from t5x_like.scaling.laws.table import Table

PF_DAY = 8.64e19  # FLOPs: the unit of compute in Kaplan et al.


@dataclasses.dataclass(frozen=True)
class Law:
    """target = function(inputs); `positive` are the parameters fitted as logs, `straight` says that it is a line in logs."""

    name: str
    equation: str
    source: str
    parameters: tuple[str, ...]
    positive: tuple[str, ...]
    inputs: tuple[str, ...]
    function: Callable  # (theta_P, x_K) -> y
    grid: Callable  # (x_NK, y_N) -> theta_SP
    target: str = "loss"
    log_target: bool = True
    straight: bool = False

    @property
    def exponents(self) -> tuple[str, ...]:
        """Powers of an input that at 0 leave a term no different from a constant beside it."""
        return () if self.straight else tuple(x for x in self.parameters if x not in (*self.positive, "low", "high"))

    @property
    def least_rows(self) -> int:
        """Rows that leave something to judge the fit by: a line needs fewer than a curve."""
        return len(self.parameters) + (1 if self.straight else 3)

    def features(self, columns: Mapping[str, Sequence[float]] | Table) -> np.ndarray:
        """x_NK: the logs of the inputs."""
        return np.log(np.stack([np.asarray(columns[name], np.float64) for name in self.inputs], axis=-1))

    def targets(self, table: Table) -> np.ndarray:
        """y_N."""
        return np.log(table[self.target]) if self.log_target else table[self.target]

    def untransformed(self, y: np.ndarray) -> np.ndarray:
        """The target, on its own scale."""
        return np.exp(y) if self.log_target else y

    def values(self, theta: np.ndarray) -> np.ndarray:
        """Constants as papers print them, for theta of any leading shape."""
        logs = np.array([name in self.positive for name in self.parameters])
        with np.errstate(over="ignore"):
            return np.where(logs, np.exp(theta), theta)

    def constants(self, theta: np.ndarray) -> dict[str, float]:
        return dict(zip(self.parameters, self.values(theta).tolist(), strict=True))

    def theta(self, constants: Mapping[str, float]) -> np.ndarray:
        """What `constants` gives back."""
        return np.array([np.log(constants[x]) if x in self.positive else constants[x] for x in self.parameters])

    def predict(self, theta_SP: np.ndarray, columns: Mapping[str, Sequence[float]]) -> np.ndarray:
        """The target for every theta and row, [S, N], in float64."""
        theta_SP = np.atleast_2d(np.asarray(theta_SP, np.float64))
        return self.untransformed(evaluate(self.function, theta_SP, self.features(columns)))


def evaluate(function: Callable, theta_SP: np.ndarray, x_NK: np.ndarray) -> np.ndarray:
    """function(theta, x) for every pair, on the scale of y."""
    with float64.on_host():
        return np.asarray(everywhere(function, theta_SP, x_NK))


@jax.jit(static_argnums=0)
def everywhere(function: Callable, theta_SP, x_NK):
    return jax.vmap(jax.vmap(function, (None, 0)), (0, None))(theta_SP, x_NK)


def log_sum(*terms):
    """log sum exp, with the gradient of every term finite."""
    top = terms[0]
    for term in terms[1:]:
        top = jnp.maximum(top, term)
    top = jax.lax.stop_gradient(top)
    return top + jnp.log(sum(jnp.exp(term - top) for term in terms))


def product(*axes: Sequence[float]) -> np.ndarray:
    """Every combination, a row each."""
    return np.array(list(itertools.product(*axes)))


FLOOR = np.log([0.1, 0.3, 0.5, 0.7, 0.9])  # irreducible share of the loss
TERM = np.log([0.01, 0.03, 0.1, 0.3, 0.6, 1.0])  # share of a term
EXPONENT = np.array([0.1, 0.25, 0.5, 0.9, 1.4])


def chinchilla(theta_P, x_K):
    """log(E + A / N^alpha + B / D^beta)."""
    e, a, b, alpha, beta = theta_P
    return log_sum(e, a - alpha * x_K[0], b - beta * x_K[1])


def chinchilla_grid(x_NK, y_N):
    """5 x 6 x 6 x 5 x 5 = 4500 starts."""
    (n, d), y = x_NK.mean(0), y_N.mean()
    e, a, b, alpha, beta = product(FLOOR, TERM, TERM, EXPONENT, EXPONENT).T
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


def tied(theta_P, x_K):
    """log(E + A / N^alpha + B / D^alpha)."""
    e, a, b, alpha = theta_P
    return log_sum(e, a - alpha * x_K[0], b - alpha * x_K[1])


def tied_grid(x_NK, y_N):
    (n, d), y = x_NK.mean(0), y_N.mean()
    e, a, b, alpha = product(FLOOR, TERM, TERM, EXPONENT).T
    return np.stack([y + e, y + a + alpha * n, y + b + alpha * d, alpha], axis=-1)


TIED = Law(
    "chinchilla_tied",
    "L = E + A / N^alpha + B / D^alpha",
    "Muennighoff et al. 2023, section 3",
    ("E", "A", "B", "alpha"),
    ("E", "A", "B"),
    ("n_params", "tokens"),
    tied,
    tied_grid,
)


def ratio_power(theta_P, x_K):
    """alpha log(X_c / X)."""
    return theta_P[1] * (theta_P[0] - x_K[0])


def ratio_power_grid(x_NK, y_N):
    alpha = np.geomspace(0.01, 2.0, 64)
    return np.stack([x_NK.mean() + y_N.mean() / alpha, alpha], axis=-1)


def kaplan(letter: str, column: str) -> Law:
    """One of Kaplan's laws of a single scale."""
    return Law(
        f"kaplan_{letter.lower()}",
        f"L = ({letter}_c / {letter})^alpha_{letter}",
        "Kaplan et al. 2020, equations 1.1-1.3" + (" (there in PF-days of 8.64e19 FLOPs)" if letter == "C" else ""),
        (f"{letter}_c", f"alpha_{letter}"),
        (f"{letter}_c",),
        (column,),
        ratio_power,
        ratio_power_grid,
        straight=True,
    )


KAPLAN_N, KAPLAN_D, KAPLAN_C = kaplan("N", "n_params"), kaplan("D", "tokens"), kaplan("C", "flops_6nd")


def kaplan_nd(theta_P, x_K):
    """alpha_D log((N_c / N)^(alpha_N / alpha_D) + D_c / D)."""
    n, d, alpha_n, alpha_d = theta_P
    return alpha_d * log_sum(alpha_n / alpha_d * (n - x_K[0]), d - x_K[1])


def kaplan_nd_grid(x_NK, y_N):
    (n, d), y = x_NK.mean(0), y_N.mean()
    alpha_n, alpha_d, share = product(np.geomspace(0.03, 1, 8), np.geomspace(0.03, 1, 8), [0.1, 0.3, 0.5, 0.7, 0.9]).T
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


def offset_power(theta_P, x_K):
    """log(E + k / X^p)."""
    e, k, p = theta_P
    return log_sum(e, k - p * x_K[0])


def offset_power_grid(x_NK, y_N):
    e, k, p = product(FLOOR, TERM, np.geomspace(0.03, 1.5, 9)).T
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


def data_constrained(theta_P, x_K):
    """chinchilla of N' and D', what parameters and repeated tokens are worth; inputs N, D and the unique tokens U.

    D' = U + U R_D (1 - exp(-(D / U - 1) / R_D)), and likewise N' with R_N beyond the N that U unique tokens are optimal for.
    """
    e, a, b, alpha, beta, r_d, r_n = theta_P
    n, d, u = x_K
    u = jnp.minimum(u, d)
    best_n = (jnp.log(alpha) + a - jnp.log(beta) - b + beta * u) / alpha
    return chinchilla((e, a, b, alpha, beta), (worth(n, jnp.minimum(n, best_n), r_n), worth(d, u, r_d)))


def worth(x, fresh, r):
    """log(U + U R (1 - exp(-(X / U - 1) / R))), of logs."""
    over = jnp.exp(x - fresh) - 1.0
    return fresh + jnp.log1p(jnp.exp(r) * -jnp.expm1(-over / jnp.exp(r)))


def data_constrained_grid(x_NK, y_N):
    plain = chinchilla_grid(x_NK[:, :2], y_N).reshape(5, 6, 6, 5, 5, 5)[1::2, 1:5, 1:5, :4, :4].reshape(-1, 5)
    decay = product(np.log([5.0, 30.0]), np.log([5.0]))
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


def power(theta_P, x_K):
    """log k + sum p_i log X_i."""
    return theta_P[0] + sum(p * x for p, x in zip(theta_P[1:], x_K, strict=True))


def power_grid(x_NK, y_N):
    """Least squares, and it tilted: the problem is convex."""
    design = np.concatenate([np.ones((len(x_NK), 1)), x_NK], axis=-1)
    middle = np.linalg.lstsq(design, y_N, rcond=None)[0]
    tilts = product(*[[-0.3, 0.0, 0.3]] * x_NK.shape[1])
    return np.concatenate([(middle[0] - tilts @ x_NK.mean(0))[:, None], middle[1:] + tilts], axis=-1)


def power_law(target: str, *inputs: str, source: str = "") -> Law:
    """target = k prod X_i^p_i."""
    names = tuple("p" if len(inputs) == 1 else f"p_{name}" for name in inputs)
    text = " ".join(f"{name}^{p}" for name, p in zip(inputs, names, strict=True))
    law = Law(f"{target}_power", f"{target} = k {text}", source, ("k", *names), ("k",), inputs, power, power_grid)
    return dataclasses.replace(law, target=target, straight=True)


def broken(theta_P, x_K):
    """log(a + b X^-c0 (1 + (X / d)^(1/f))^(-c1 f))."""
    a, b, c0, c1, d, f = theta_P
    sharp = jnp.exp(f)
    return log_sum(a, b - c0 * x_K[0] - c1 * sharp * jax.nn.softplus((x_K[0] - d) / sharp))


def broken_grid(x_NK, y_N):
    x, y = x_NK[:, 0], y_N.mean()
    places = np.quantile(x, [0.2, 0.4, 0.6, 0.8])
    a, b, c0, c1, d, f = product(
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
    broken,
    broken_grid,
)


def sigmoid(theta_P, x_K):
    """low + (high - low) / (1 + exp(k (L - middle)))."""
    low, high, k, middle = theta_P
    return low + (high - low) * jax.nn.sigmoid(jnp.exp(k) * (jnp.exp(middle) - jnp.exp(x_K[0])))


def sigmoid_grid(x_NK, y_N):
    """The plateaus at the table's and at 0 and 1, the middle anywhere between its losses."""
    losses = np.log(np.quantile(np.exp(x_NK[:, 0]), np.linspace(0.05, 0.95, 7)))
    spread = max(np.ptp(np.exp(x_NK[:, 0])), 1e-3)
    return product([0.0, y_N.min()], [y_N.max(), 1.0], np.log(np.geomspace(1, 60, 8) / spread), losses)


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

EVERY = (CHINCHILLA, TIED, KAPLAN_N, KAPLAN_D, KAPLAN_C, KAPLAN_ND, LOSS_VS_COMPUTE, DATA_CONSTRAINED, BROKEN, SIGMOID)


def named(name: str, inputs: tuple[str, ...], target: str) -> Law:
    """A law by its name, over these columns.

    Raises:
      KeyError: there is none of that name.
    """
    law = next((law for law in EVERY if law.name == name), None) or power_law(target, *inputs)
    if law.name != name:
        raise KeyError(name)
    return dataclasses.replace(law, inputs=inputs, target=target)

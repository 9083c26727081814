"""Plans a training budget: the N and D that minimise a fitted loss, a shape, learning rate, batch and loss, with intervals.

C = 6 N D for training, plus 2 N per token of inference if tokens are to be served: C then pays for both, D = (C / N - 2 T) / 6
(the total cost of Sardana & Frankle 2023). Repeats beyond the unique tokens are valued as in Muennighoff et al. 2023.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from t5x_like.scaling.laws import float64, laws
from t5x_like.scaling.laws.fit import Fit
from t5x_like.scaling.laws.laws import Law
from t5x_like.scaling.planning import presets
from t5x_like.scaling.planning.presets import Allocation, LossLaw
from t5x_like.scaling.planning.shapes import Proportional, Shape

Number = TypeVar("Number", float, np.ndarray)
ASPECT_RATIO = (
    100.0  # width / depth: GPT-3 and LLaMA have 64 to 128, and Kaplan et al. 2020 find the loss flat in that range
)
GRID_POINTS, GRID_ZOOMS = 65, 7


@dataclasses.dataclass(frozen=True)
class Quantity:
    """A number and its interval; None if the source gives no interval."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclasses.dataclass(frozen=True)
class Budget:
    """FLOPs to spend and their limits. `inference_tokens` are to be served by the trained model, from the same FLOPs."""

    flops: float
    unique_tokens: float | None = None
    inference_tokens: float = 0.0
    max_params: float | None = None

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if value is not None and not (
                math.isfinite(value) and (value > 0 or (name == "inference_tokens" and value == 0))
            ):
                raise ValueError(f"{name}={value:g} is not a positive number; give one, or leave it out")
        if self.max_size < 1:
            raise ValueError(
                f"inference_tokens={self.inference_tokens:g} leave nothing of flops={self.flops:g} to train with; raise flops or "
                f"lower inference_tokens below {(self.flops - 6) / 2:g}"
            )

    @property
    def max_size(self) -> float:
        """The largest N that leaves a token to train on, at most max_params."""
        largest = self.flops / (6 + 2 * self.inference_tokens)
        return min(largest, self.max_params or math.inf)

    def tokens(self, n_params: Number) -> Number:
        """Returns the D that the budget pays for."""
        return (self.flops / n_params - 2 * self.inference_tokens) / 6


@dataclasses.dataclass(frozen=True)
class Plan:
    """A run that spends a budget, and the sources it is computed from."""

    budget: Budget
    n_params: Quantity
    tokens: Quantity
    loss: Quantity | None
    lr: Quantity
    batch_tokens: Quantity
    shape: Shape
    level: float
    sources: tuple[str, ...]

    @property
    def training_flops(self) -> float:
        """6 N D."""
        return 6 * self.n_params.value * self.tokens.value

    def hours(self, flops_per_second: float) -> float:
        """Returns the hours of training."""
        return self.training_flops / flops_per_second / 3600


def from_fit(budget: Budget, fit: Fit, lr: Fit | None = None, batch: Fit | None = None) -> Plan:
    """Plans with a fitted law of N and D; `lr` and `batch` are power laws fitted to the same table.

    Raises:
      ValueError: the law is not one of N and D.
    """
    adapted, assumptions = adapt_fit(fit, budget)
    n = float(find_optimal_size(adapted.law, adapted.theta[None], budget)[0])
    n_S = find_optimal_size(adapted.law, adapted.widened_draws(), budget)
    n_params = with_interval(n, n_S, adapted.level)
    tokens = with_interval(budget.tokens(n), budget.tokens(n_S), adapted.level)
    at = input_columns(budget, n)
    sources = (f"{fit.law.name} fitted to {adapted.rows} rows", *assumptions, *list_caveats(fit, at))
    return complete_plan(budget, n_params, tokens, predict_quantity(adapted, at), adapted.level, sources, lr, batch)


def list_caveats(fit: Fit, at: Mapping[str, np.ndarray]) -> list[str]:
    """Lists reasons not to trust a plan: parameters that are not identified, and inputs beyond the fitted range."""
    unidentified = [name for name, each in fit.parameters.items() if not each.identified and name != "E"]
    caveats = [f"NOT IDENTIFIED by these rows: {', '.join(unidentified)}; N and D are a guess"] if unidentified else []
    largest = {name: (float(np.ravel(at[name])[0]), fit.ranges[name][1]) for name in fit.law.inputs if name in at}
    beyond = [
        f"{value / high:.3g}x the largest {name} fitted" for name, (value, high) in largest.items() if value > high
    ]
    return caveats + beyond


def from_preset(budget: Budget, preset: LossLaw | Allocation, lr: Fit | None = None, batch: Fit | None = None) -> Plan:
    """Plans with a paper's law, without intervals.

    Raises:
      ValueError: an Allocation with inference or unique tokens.
    """
    assumptions: tuple[str, ...] = ()
    loss: Quantity | None = None
    if isinstance(preset, Allocation):
        if budget.inference_tokens or budget.unique_tokens:
            raise ValueError(
                f"{preset.paper} only divides C between N and D; for inference_tokens or unique_tokens use a law of the loss "
                "(besiroglu, hoffmann, muennighoff)"
            )
        n = min(float(preset.n_params(budget.flops)), budget.max_size)
        if preset.loss and n < budget.max_size:
            loss = Quantity(float((preset.loss[0] / budget.flops) ** preset.loss[1]))
    else:
        law, assumptions = adapt_law(preset.law, budget)
        theta = extend_theta(preset.law, law, preset.theta)
        n = float(find_optimal_size(law, theta[None], budget)[0])
        loss = Quantity(float(law.predict(theta, input_columns(budget, n))[0, 0]))
    source = f"{preset.paper}; no intervals, the paper prints no covariance"
    sources = (source, *assumptions)
    return complete_plan(budget, Quantity(n), Quantity(budget.tokens(n)), loss, 0.95, sources, lr, batch)


def complete_plan(
    budget: Budget,
    n_params: Quantity,
    tokens: Quantity,
    loss: Quantity | None,
    level: float,
    sources: tuple[str, ...],
    lr: Fit | None,
    batch: Fit | None,
) -> Plan:
    """Adds a shape, learning rate and batch to a plan; a paper's rules replace power laws that are None."""
    flops = 6 * n_params.value * tokens.value
    at = {"n_params": [n_params.value], "tokens": [tokens.value], "flops_6nd": [flops]}
    lr_value = Quantity(presets.deepseek_lr(flops)) if lr is None else predict_quantity(lr, at)
    batch_value = Quantity(presets.deepseek_batch_tokens(flops)) if batch is None else predict_quantity(batch, at)
    if lr is None or batch is None:
        names = " and ".join(name for name, fit in (("lr", lr), ("batch", batch)) if fit is None)
        sources = (*sources, f"{names}: {presets.OPTIMIZER_PAPER}; no interval")
    shape = choose_shape(n_params.value)
    return Plan(budget, n_params, tokens, loss, lr_value, batch_value, shape, level, sources)


def choose_shape(n_params: float) -> Shape:
    """Chooses width, depth and heads for N: width / depth near ASPECT_RATIO, heads of 128, 64 or 16 depending on the width."""
    width = (ASPECT_RATIO * n_params / 12) ** (1 / 3)
    head_dim = 128 if width >= 2048 else 64 if width >= 256 else 16
    return Proportional(ASPECT_RATIO, head_dim)(n_params)


def adapt_fit(fit: Fit, budget: Budget) -> tuple[Fit, tuple[str, ...]]:
    """Returns (the fit, extended by the value of repeated tokens if the budget limits unique tokens; its assumptions)."""
    law, assumptions = adapt_law(fit.law, budget)
    if law is fit.law:
        return fit, ()
    theta, draws = (extend_theta(fit.law, law, each) for each in (fit.theta, fit.draws))
    return dataclasses.replace(fit, law=law, theta=theta, draws=draws), assumptions


def adapt_law(law: Law, budget: Budget) -> tuple[Law, tuple[str, ...]]:
    """Returns (the law, or data_constrained if the budget limits unique tokens; the assumptions this makes).

    Raises:
      ValueError: the law is not one of N and D, or has no form for repeated tokens.
    """
    if not {"n_params", "tokens"} <= set(law.inputs):
        raise ValueError(
            f"{law.name} is a law of {', '.join(law.inputs)}; to plan, fit one of n_params and tokens: chinchilla"
        )
    if budget.unique_tokens is None or "unique_tokens" in law.inputs:
        return law, ()
    if law.function not in (laws.chinchilla, laws.chinchilla_tied):
        raise ValueError(
            f"{law.name} does not model repeated tokens; for unique_tokens fit chinchilla or data_constrained"
        )
    return (
        dataclasses.replace(laws.DATA_CONSTRAINED, target=law.target),
        (f"repeated tokens are valued by R_D and R_N of {presets.MUENNIGHOFF.paper}",),
    )


def extend_theta(law: Law, extended: Law, theta: np.ndarray) -> np.ndarray:
    """Converts theta [..., P] of `law` to that of `extended`, which may add the value of repeats (R_D, R_N)."""
    if law is extended:
        return theta
    parts = dict(zip(law.parameters, np.moveaxis(theta, -1, 0), strict=True))
    known = {name: np.full(theta.shape[:-1], math.log(presets.MUENNIGHOFF.constants[name])) for name in ("R_D", "R_N")}
    parts = {"beta": parts["alpha"]} | parts | known
    return np.stack([parts[name] for name in extended.parameters], axis=-1)


def input_columns(budget: Budget, n_params: ArrayLike) -> dict[str, np.ndarray]:
    """Returns the inputs of the laws for models of `n_params` that spend the budget."""
    n = np.atleast_1d(np.asarray(n_params, np.float64))
    tokens = budget.tokens(n)
    unique = tokens if budget.unique_tokens is None else np.minimum(tokens, budget.unique_tokens)
    return {"n_params": n, "tokens": tokens, "unique_tokens": unique, "flops_6nd": 6 * n * tokens}


def find_optimal_size(law: Law, theta_SP: np.ndarray, budget: Budget) -> np.ndarray:
    """Returns the N [S] with the lowest loss for every theta, by a grid over log N that zooms in on the lowest point."""
    low, high = np.zeros(len(theta_SP)), np.full(len(theta_SP), math.log(budget.max_size))
    for _ in range(GRID_ZOOMS):
        log_n_SG = low[:, None] + (high - low)[:, None] * np.linspace(0, 1, GRID_POINTS)
        x_SGK = law.features(input_columns(budget, np.exp(log_n_SG)))
        with float64.on_host():
            best = np.asarray(evaluate_own_points(law.function, theta_SP, x_SGK)).argmin(axis=1)
        rows = np.arange(len(best))
        low, high = log_n_SG[rows, np.maximum(best - 1, 0)], log_n_SG[rows, np.minimum(best + 1, GRID_POINTS - 1)]
    return np.exp((low + high) / 2)


@jax.jit(static_argnums=0)
def evaluate_own_points(function: Callable, theta_SP: jax.Array, x_SGK: jax.Array) -> jax.Array:
    """Evaluates a law [S, G] for every theta at its own points; NaN becomes infinity."""
    y_SG = jax.vmap(jax.vmap(function, (None, 0)))(theta_SP, x_SGK)
    return jnp.where(jnp.isnan(y_SG), jnp.inf, y_SG)


def with_interval(value: float, draws: np.ndarray, level: float) -> Quantity:
    """Returns a value with the interval between quantiles of its draws."""
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Quantity(float(value), float(low), float(high))


def predict_quantity(fit: Fit, at: Mapping[str, ArrayLike]) -> Quantity:
    """Returns the prediction of a fit for one run, with its interval."""
    prediction = fit.predict(at)
    return Quantity(*(float(x[0]) for x in (prediction.value, prediction.low, prediction.high)))


def closed_form_optimum(constants: Mapping[str, float], flops: float) -> tuple[float, float]:
    """Returns the (N, D) that minimise E + A / N^alpha + B / D^beta at 6 N D = C.

    N = G (C / 6)^a, D = (C / 6)^b / G, a = beta / (alpha + beta), b = alpha / (alpha + beta),
    G = (alpha A / (beta B))^(1 / (alpha + beta)) (Hoffmann et al. 2022, equation 4, with a and b the right way round).
    """
    alpha, beta = constants["alpha"], constants.get("beta", constants["alpha"])
    g = (alpha * constants["A"] / (beta * constants["B"])) ** (1 / (alpha + beta))
    return g * (flops / 6) ** (beta / (alpha + beta)), (flops / 6) ** (alpha / (alpha + beta)) / g


def size_exponent(fit: Fit) -> Quantity | None:
    """Returns a of N_opt ~ C^a for laws with alpha and beta, else None."""
    if fit.law.function not in (laws.chinchilla, laws.chinchilla_tied):
        return None
    names = fit.law.parameters
    alpha, beta = names.index("alpha"), names.index("beta" if "beta" in names else "alpha")
    draws = fit.widened_draws()
    a, a_S = (theta[..., beta] / (theta[..., alpha] + theta[..., beta]) for theta in (fit.theta, draws))
    return with_interval(float(a), a_S, fit.level)

"""What to train with a budget: N and D that minimise a fitted loss, a shape, learning rate, batch and cost, with intervals.

C = 6 N D of training, and 2 N a token of inference where tokens are to be served: then C pays for both, D = (C / N - 2 T) / 6
(the total cost of Sardana & Frankle 2023). Beyond the unique tokens, repeats are worth what Muennighoff et al. 2023 found.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from t5x_like.scaling.laws import float64, laws
from t5x_like.scaling.laws.fit import Fit
from t5x_like.scaling.laws.laws import Law
from t5x_like.scaling.planning import presets
from t5x_like.scaling.planning.presets import Allocation, LossLaw
from t5x_like.scaling.planning.shapes import Proportional, Shape

ASPECT = 100.0  # width / depth: GPT-3 and LLaMA have 64 to 128, and Kaplan et al. 2020 find the loss flat around there
POINTS, ZOOMS = 65, 7


@dataclasses.dataclass(frozen=True)
class Quantity:
    """A number and its interval; None where the source gives none."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclasses.dataclass(frozen=True)
class Budget:
    """FLOPs to spend and what limits how. `inference_tokens` are to be served by the trained model, from the same FLOPs."""

    flops: float
    unique_tokens: float | None = None
    inference_tokens: float = 0.0
    max_params: float | None = None

    def __post_init__(self):
        for name, value in dataclasses.asdict(self).items():
            if value is not None and not (
                math.isfinite(value) and (value > 0 or (name == "inference_tokens" and value == 0))
            ):
                raise ValueError(f"{name}={value:g} is no positive number; give one, or leave it out")
        if self.largest < 1:
            raise ValueError(
                f"inference_tokens={self.inference_tokens:g} leave nothing of flops={self.flops:g} to train with; raise flops or "
                f"lower inference_tokens below {(self.flops - 6) / 2:g}"
            )

    @property
    def largest(self) -> float:
        """The largest N that leaves a token to train on, or max_params."""
        free = self.flops / (6 + 2 * self.inference_tokens)
        return min(free, self.max_params or math.inf)

    def tokens(self, n_params):
        """D that the budget pays for."""
        return (self.flops / n_params - 2 * self.inference_tokens) / 6


@dataclasses.dataclass(frozen=True)
class Plan:
    """A run that spends a budget, and what it stands on."""

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
        return 6 * self.n_params.value * self.tokens.value

    def hours(self, flops_per_second: float) -> float:
        """Of training."""
        return self.training_flops / flops_per_second / 3600


def from_fit(budget: Budget, found: Fit, lr: Fit | None = None, batch: Fit | None = None) -> Plan:
    """The optimum of a fitted law of N and D; `lr` and `batch` are power laws fitted to the same table.

    Raises:
      ValueError: the law has no N and D to choose.
    """
    fitted = found
    found, extra = for_budget(found, budget)
    n = float(optimum(found.law, found.theta[None], budget)[0])
    n_S = optimum(found.law, found.widened_draws(), budget)
    n_params, tokens = around(n, n_S, found.level), around(budget.tokens(n), budget.tokens(n_S), found.level)
    at = columns(budget, n)
    sources = (f"{fitted.law.name} fitted to {found.rows} rows", *extra, *reservations(fitted, at))
    return complete(budget, n_params, tokens, quantity(found, at), found.level, sources, lr, batch)


def reservations(found: Fit, at: Mapping[str, np.ndarray]) -> list[str]:
    """What a plan should not be trusted for: parameters that the rows do not identify, and how far beyond them it is."""
    unsure = [name for name, each in found.parameters.items() if not each.identified and name != "E"]
    lines = [f"NOT IDENTIFIED by these rows: {', '.join(unsure)}; N and D are a guess"] if unsure else []
    largest = {name: (float(np.ravel(at[name])[0]), found.ranges[name][1]) for name in found.law.inputs if name in at}
    far = [f"{value / most:.3g}x the largest {name} fitted" for name, (value, most) in largest.items() if value > most]
    return lines + far


def from_preset(budget: Budget, preset: LossLaw | Allocation, lr: Fit | None = None, batch: Fit | None = None) -> Plan:
    """A paper's optimum, without intervals."""
    extra, loss = (), None
    if isinstance(preset, Allocation):
        if budget.inference_tokens or budget.unique_tokens:
            raise ValueError(
                f"{preset.paper} only divides C between N and D; for inference_tokens or unique_tokens take a law of the loss "
                "(besiroglu, hoffmann, muennighoff)"
            )
        n = min(float(preset.n_params(budget.flops)), budget.largest)
        if preset.loss and n < budget.largest:
            loss = Quantity(float((preset.loss[0] / budget.flops) ** preset.loss[1]))
    else:
        law, extra = law_for(preset.law, budget)
        theta = extended(preset.law, law, preset.theta)
        n = float(optimum(law, theta[None], budget)[0])
        loss = Quantity(float(law.predict(theta, columns(budget, n))[0, 0]))
    source = f"{preset.paper}; no intervals, the paper prints no covariance"
    return complete(budget, Quantity(n), Quantity(budget.tokens(n)), loss, 0.95, (source, *extra), lr, batch)


def complete(budget, n_params, tokens, loss, level, sources, lr, batch) -> Plan:
    """A plan with learning rate and batch, fitted ones or those of a paper, and a shape."""
    flops = 6 * n_params.value * tokens.value
    at = {"n_params": [n_params.value], "tokens": [tokens.value], "flops_6nd": [flops]}
    rules = [(lr, presets.lr), (batch, presets.batch_tokens)]
    quantities = [Quantity(rule(flops)) if fitted is None else quantity(fitted, at) for fitted, rule in rules]
    if lr is None or batch is None:
        what = " and ".join(name for name, fitted in (("lr", lr), ("batch", batch)) if fitted is None)
        sources = (*sources, f"{what}: {presets.OPTIMIZER_PAPER}; no interval")
    return Plan(budget, n_params, tokens, loss, *quantities, shape(n_params.value), level, sources)


def shape(n_params: float) -> Shape:
    """Width, depth and heads for N: width / depth near ASPECT, heads of 128, 64 or 16 as the width allows."""
    width = (ASPECT * n_params / 12) ** (1 / 3)
    head_dim = 128 if width >= 2048 else 64 if width >= 256 else 16
    return Proportional(ASPECT, head_dim)(n_params)


def for_budget(found: Fit, budget: Budget) -> tuple[Fit, tuple[str, ...]]:
    """A fit that knows what repeated tokens are worth, where they may run out, and what had to be assumed."""
    law, assumed = law_for(found.law, budget)
    if law is found.law:
        return found, ()
    theta, draws = (extended(found.law, law, each) for each in (found.theta, found.draws))
    return dataclasses.replace(found, law=law, theta=theta, draws=draws), assumed


def law_for(law: Law, budget: Budget) -> tuple[Law, tuple[str, ...]]:
    """The law itself, or data_constrained where tokens may run out, and what is assumed then.

    Raises:
      ValueError: the law says nothing of N and D, or of repeats.
    """
    if not {"n_params", "tokens"} <= set(law.inputs):
        raise ValueError(
            f"{law.name} is a law of {', '.join(law.inputs)}; to plan, fit one of n_params and tokens: chinchilla"
        )
    if budget.unique_tokens is None or "unique_tokens" in law.inputs:
        return law, ()
    if law.function not in (laws.chinchilla, laws.chinchilla_tied):
        raise ValueError(
            f"{law.name} says nothing of repeated tokens; for unique_tokens fit chinchilla or data_constrained"
        )
    return (
        dataclasses.replace(laws.DATA_CONSTRAINED, target=law.target),
        (f"repeated tokens are worth what R_D and R_N of {presets.MUENNIGHOFF.paper} say",),
    )


def extended(law: Law, wanted: Law, theta: np.ndarray) -> np.ndarray:
    """theta [..., P] of `wanted` from that of `law`, which may lack how much repeats are worth."""
    if law is wanted:
        return theta
    parts = dict(zip(law.parameters, np.moveaxis(theta, -1, 0), strict=True))
    known = {name: np.full(theta.shape[:-1], math.log(presets.MUENNIGHOFF.constants[name])) for name in ("R_D", "R_N")}
    parts = {"beta": parts["alpha"]} | parts | known
    return np.stack([parts[name] for name in wanted.parameters], axis=-1)


def columns(budget: Budget, n_params) -> dict[str, np.ndarray]:
    """The inputs of the laws at N."""
    n = np.atleast_1d(np.asarray(n_params, np.float64))
    tokens = budget.tokens(n)
    unique = tokens if budget.unique_tokens is None else np.minimum(tokens, budget.unique_tokens)
    return {"n_params": n, "tokens": tokens, "unique_tokens": unique, "flops_6nd": 6 * n * tokens}


def optimum(law: Law, theta_SP: np.ndarray, budget: Budget) -> np.ndarray:
    """N with the lowest loss for every theta, by a grid over log N that closes in on the lowest point."""
    low, high = np.zeros(len(theta_SP)), np.full(len(theta_SP), math.log(budget.largest))
    for _ in range(ZOOMS):
        log_n_SG = low[:, None] + (high - low)[:, None] * np.linspace(0, 1, POINTS)
        x_SGK = law.features(columns(budget, np.exp(log_n_SG)))
        with float64.on_host():
            best = np.asarray(at_own_points(law.function, theta_SP, x_SGK)).argmin(axis=1)
        rows = np.arange(len(best))
        low, high = log_n_SG[rows, np.maximum(best - 1, 0)], log_n_SG[rows, np.minimum(best + 1, POINTS - 1)]
    return np.exp((low + high) / 2)


@jax.jit(static_argnums=0)
def at_own_points(function: Callable, theta_SP, x_SGK):
    """The law of every theta at its own points; what is no number is as bad as can be."""
    y_SG = jax.vmap(jax.vmap(function, (None, 0)))(theta_SP, x_SGK)
    return jnp.where(jnp.isnan(y_SG), jnp.inf, y_SG)


def around(value: float, draws: np.ndarray, level: float) -> Quantity:
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Quantity(float(value), float(low), float(high))


def quantity(found: Fit, at) -> Quantity:
    """The prediction of a fitted power law."""
    predicted = found.predict(at)
    return Quantity(*(float(x[0]) for x in (predicted.value, predicted.low, predicted.high)))


def closed_form(constants: dict[str, float], flops: float) -> tuple[float, float]:
    """(N, D) that minimise E + A / N^alpha + B / D^beta at 6 N D = C.

    N = G (C / 6)^a, D = (C / 6)^b / G, a = beta / (alpha + beta), b = alpha / (alpha + beta),
    G = (alpha A / (beta B))^(1 / (alpha + beta)) (Hoffmann et al. 2022, equation 4, with a and b the right way round).
    """
    alpha, beta = constants["alpha"], constants.get("beta", constants["alpha"])
    g = (alpha * constants["A"] / (beta * constants["B"])) ** (1 / (alpha + beta))
    return g * (flops / 6) ** (beta / (alpha + beta)), (flops / 6) ** (alpha / (alpha + beta)) / g


def exponent(found: Fit) -> Quantity | None:
    """a of N_opt ~ C^a, where the law has alpha and beta."""
    if found.law.function not in (laws.chinchilla, laws.chinchilla_tied):
        return None
    names = found.law.parameters
    alpha, beta = names.index("alpha"), names.index("beta" if "beta" in names else "alpha")
    draws = found.widened_draws()
    a, a_S = (theta[..., beta] / (theta[..., alpha] + theta[..., beta]) for theta in (found.theta, draws))
    return around(float(a), a_S, found.level)

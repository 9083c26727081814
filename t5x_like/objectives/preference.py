"""Losses of pairs of answers, a chosen and a rejected one, as pure functions of arrays [N], one entry per pair.

Most losses read the log-ratios of a sequence under the policy and a frozen reference, log p(y | x) - log p_ref(y | x), as
`log_ratios` computes them. Each is a function with its own named arguments; `PAIR_LOSSES` lists them by the names of TRL, and
`pair_loss` looks one up. Losses have shape [N]: their mean is the loss of a batch. `beta` is the strength of the pull to the
reference, and `beta` times a log-ratio the implicit reward (Rafailov et al. 2023, arXiv:2305.18290). All raise ValueError if
the shapes of a pair differ, or a number is out of range.

Losses without a reference are in `reference_free`, losses of answers that come one by one in `unpaired`, and losses of reward
models in `rewards`.
"""

import inspect
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from t5x_like.types import Metrics

REDUCTIONS = ("sum", "mean", "token_mean")


def sequence_logps(logps_NL: jax.Array, mask_NL: jax.Array, reduce: str = "sum") -> jax.Array:
    """Reduces log-probabilities of tokens to one number per sequence [N].

    Tokens where `mask_NL` is 0 count nothing, whatever their value, and get no gradient. A sequence without tokens is 0.

    Args:
      logps_NL: log-probability of each token, in nats.
      mask_NL: 1 or true for the tokens of the answer.
      reduce: "sum" is log p(y | x). "mean" divides it by the number of tokens of the sequence (SimPO, ORPO, TRL's IPO).
        "token_mean" divides it by the mean number of tokens of all N: the mean over N is then the mean over tokens, which
        is how TRL averages the likelihood term of CPO and ORPO.

    Raises:
      ValueError: shapes differ, or `reduce` is unknown.
    """
    check_shapes(logps_NL=logps_NL, mask_NL=mask_NL)
    if reduce not in REDUCTIONS:
        raise ValueError(f"reduce={reduce!r} is unknown; choose one of {', '.join(REDUCTIONS)}")
    sum_N = jnp.sum(jnp.where(mask_NL != 0, logps_NL, 0), axis=1)
    if reduce == "sum":
        return sum_N
    count_N = jnp.sum(mask_NL != 0, axis=1).astype(sum_N.dtype)
    if reduce == "mean":
        return sum_N / jnp.maximum(count_N, 1)
    return sum_N * (len(count_N) / jnp.maximum(jnp.sum(count_N), 1))


def log_ratios(policy_NL: jax.Array, reference_NL: jax.Array, mask_NL: jax.Array, reduce: str = "sum") -> jax.Array:
    """Computes log p(y | x) - log p_ref(y | x) [N] from log-probabilities of tokens, reduced as by `sequence_logps`.

    No gradient flows into the reference.

    Raises:
      ValueError: shapes differ, or `reduce` is unknown.
    """
    check_shapes(policy_NL=policy_NL, reference_NL=reference_NL)
    return sequence_logps(policy_NL - jax.lax.stop_gradient(reference_NL), mask_NL, reduce)


def sigmoid(chosen_N: jax.Array, rejected_N: jax.Array, *, beta: float, label_smoothing: float = 0.0) -> jax.Array:
    """DPO: -(1 - e) log s(m) - e log s(-m), where m = beta (chosen - rejected), s the logistic function.

    e, `label_smoothing`, is the probability that a label is wrong: 0 is DPO (arXiv:2305.18290, equation 7), above 0 cDPO
    (Mitchell 2023, equation 3). On means of log-ratios it is TRL's "sigmoid_norm".
    """
    return logistic(margins(chosen_N, rejected_N, beta), label_smoothing)


def robust(chosen_N: jax.Array, rejected_N: jax.Array, *, beta: float, label_smoothing: float = 0.0) -> jax.Array:
    """Robust DPO: (-(1 - e) log s(m) + e log s(-m)) / (1 - 2 e), where m = beta (chosen - rejected).

    Labels are wrong with probability e, `label_smoothing`, and the loss is an unbiased estimate of DPO's on right ones
    (Chowdhury et al. 2024, arXiv:2403.00409). Above e = 0 it has no lower bound.
    """
    check_smoothing(label_smoothing)
    margin_N = margins(chosen_N, rejected_N, beta)
    # log s(-m) = log s(m) - m
    return jax.nn.softplus(-margin_N) - label_smoothing / (1 - 2 * label_smoothing) * margin_N


def ipo(chosen_N: jax.Array, rejected_N: jax.Array, *, beta: float) -> jax.Array:
    """IPO: (chosen - rejected - 1 / (2 beta))^2, where beta is the paper's tau (Azar et al. 2023, arXiv:2310.12036, 17).

    Of sums over tokens it is the paper's equation and the DPO authors' code; of means over tokens (`reduce="mean"`) it is
    TRL's, whose authors confirmed with the paper's that its experiments used means.
    """
    check_pairs(chosen_N, rejected_N, beta)
    return jnp.square(chosen_N - rejected_N - 1 / (2 * beta))


def hinge(chosen_N: jax.Array, rejected_N: jax.Array, *, beta: float) -> jax.Array:
    """Hinge: max(0, 1 - beta (chosen - rejected)), as RSO (Liu et al. 2023, arXiv:2309.06657) and TRL.

    Of log-probabilities instead of log-ratios it is 1 / delta times SLiC's max(0, delta - log p_w + log p_l) (Zhao et al.
    2023, arXiv:2305.10425), with beta = 1 / delta.
    """
    return jax.nn.relu(1 - margins(chosen_N, rejected_N, beta))


def exo_pair(chosen_N: jax.Array, rejected_N: jax.Array, *, beta: float, label_smoothing: float = 1e-3) -> jax.Array:
    """EXO of pairs: KL(q || p), where q = (s(m), s(-m)), m = beta (chosen - rejected), and p = (1 - e, e).

    e is `label_smoothing`, above 0 since the divergence is infinite at 0 (Ji et al. 2024, arXiv:2402.00856, equation 16).
    TRL before 1.0 replaces 0 by 1e-3.

    Raises:
      ValueError: `label_smoothing` is not in (0, 0.5).
    """
    if not 0 < label_smoothing < 0.5:
        raise ValueError(f"label_smoothing={label_smoothing} is not in (0, 0.5); EXO is infinite at 0: give 1e-3 or so")
    margin_N = margins(chosen_N, rejected_N, beta)
    log_right_N, log_wrong_N = jax.nn.log_sigmoid(margin_N), jax.nn.log_sigmoid(-margin_N)
    right_N = jax.nn.sigmoid(margin_N) * (log_right_N - math.log1p(-label_smoothing))
    return right_N + jax.nn.sigmoid(-margin_N) * (log_wrong_N - math.log(label_smoothing))


def nca_pair(chosen_N: jax.Array, rejected_N: jax.Array, *, beta: float) -> jax.Array:
    """NCA of pairs: -log s(r_w) - (log s(-r_w) + log s(-r_l)) / 2, where r = beta log-ratio (arXiv:2402.05369)."""
    check_pairs(chosen_N, rejected_N, beta)
    chosen_N, rejected_N = beta * chosen_N, beta * rejected_N
    return jax.nn.softplus(-chosen_N) + 0.5 * (jax.nn.softplus(chosen_N) + jax.nn.softplus(rejected_N))


def apo_zero(chosen_N: jax.Array, rejected_N: jax.Array, *, beta: float) -> jax.Array:
    """APO-zero: 1 - s(beta chosen) + s(beta rejected) (D'Oosterlinck et al. 2024, arXiv:2408.06266, equation 7).

    For chosen answers better than those of the model: it makes them likelier, and rejected ones less likely.
    """
    check_pairs(chosen_N, rejected_N, beta)
    return jax.nn.sigmoid(-beta * chosen_N) + jax.nn.sigmoid(beta * rejected_N)


def apo_down(chosen_N: jax.Array, rejected_N: jax.Array, *, beta: float) -> jax.Array:
    """APO-down: s(beta chosen) + 1 - s(beta (chosen - rejected)) (arXiv:2408.06266, equation 8).

    For chosen answers worse than those of the model: it makes both less likely, the rejected ones more so.
    """
    return jax.nn.sigmoid(beta * chosen_N) + jax.nn.sigmoid(-margins(chosen_N, rejected_N, beta))


def sppo_hard(chosen_N: jax.Array, rejected_N: jax.Array, *, beta: float) -> jax.Array:
    """SPPO: (chosen - 1 / (2 beta))^2 + (rejected + 1 / (2 beta))^2, where beta is 1 / eta of the paper.

    Equation 4.7 of Wu et al. 2024 (arXiv:2405.00675) with a probability of 1 that the chosen answer wins.
    """
    check_pairs(chosen_N, rejected_N, beta)
    return jnp.square(chosen_N - 0.5 / beta) + jnp.square(rejected_N + 0.5 / beta)


def discopop(chosen_N: jax.Array, rejected_N: jax.Array, *, beta: float, tau: float = 0.05) -> jax.Array:
    """DiscoPOP: -(1 - s(m / tau)) log s(m) + s(m / tau) exp(-m), where m = beta (chosen - rejected).

    The log-ratio modulated loss of Lu et al. 2024 (arXiv:2406.08414, equation 5).

    Raises:
      ValueError: `tau` is not in (0, 1], above which the loss of a wrong pair grows exponentially.
    """
    if not 0 < tau <= 1:
        raise ValueError(f"tau={tau} is not in (0, 1]; the paper recommends 0.05")
    margin_N = margins(chosen_N, rejected_N, beta)
    # One exponential for the product: exp(-m) alone overflows where s(m / tau) is 0.
    exponential_N = jnp.exp(jax.nn.log_sigmoid(margin_N / tau) - margin_N)
    return jax.nn.sigmoid(-margin_N / tau) * jax.nn.softplus(-margin_N) + exponential_N


def aot(chosen_N: jax.Array, rejected_N: jax.Array, *, beta: float, label_smoothing: float = 0.0) -> jax.Array:
    """AOT: `sigmoid` of sorted log-ratios, so that the distribution of the chosen dominates (arXiv:2406.05882).

    Of log-ratios it is the paper's unpaired form, "aot_unpaired" in TRL ("aot_pair" before 1.0). The paired form, "aot" in
    TRL, is this function of log p(chosen) - log p(rejected) under the policy, and the same under the reference. Entry n of
    the loss belongs to the n-th smallest of each. All pairs are compared, so it depends on how a batch is split.
    """
    check_pairs(chosen_N, rejected_N, beta)
    return logistic(beta * (jnp.sort(chosen_N) - jnp.sort(rejected_N)), label_smoothing)


PAIR_LOSSES: dict[str, Callable[..., jax.Array]] = {
    "sigmoid": sigmoid,
    "robust": robust,
    "ipo": ipo,
    "hinge": hinge,
    "exo_pair": exo_pair,
    "nca_pair": nca_pair,
    "apo_zero": apo_zero,
    "apo_down": apo_down,
    "sppo_hard": sppo_hard,
    "discopop": discopop,
    "aot_unpaired": aot,
}


def pair_loss(
    name: str,
    chosen_N: jax.Array,
    rejected_N: jax.Array,
    *,
    beta: float,
    label_smoothing: float | None = None,
    tau: float | None = None,
) -> jax.Array:
    """Computes the loss `name` of `PAIR_LOSSES` from log-ratios; [N].

    Args:
      name: a key of `PAIR_LOSSES`.
      chosen_N: log-ratios of the chosen answers, from `log_ratios`.
      rejected_N: log-ratios of the rejected answers.
      beta: the strength of the pull to the reference.
      label_smoothing: the probability that a label is wrong; None is the loss's own default.
      tau: the temperature of "discopop"; None is its own default.

    Raises:
      ValueError: shapes differ, `name` is unknown, a number is out of range, or the loss has no such argument.
    """
    if name not in PAIR_LOSSES:
        raise ValueError(f"the pair loss {name!r} is unknown; choose one of {', '.join(PAIR_LOSSES)}")
    loss = PAIR_LOSSES[name]
    known = inspect.signature(loss).parameters
    options = {"label_smoothing": label_smoothing, "tau": tau}
    for option, value in options.items():
        if value is not None and option not in known:
            having = [other for other, f in PAIR_LOSSES.items() if option in inspect.signature(f).parameters]
            raise ValueError(
                f"{option}={value}: the pair loss {name!r} has none; leave it out, or use {', '.join(having)}"
            )
    return loss(chosen_N, rejected_N, beta=beta, **{k: v for k, v in options.items() if v is not None})


def pair_metrics(
    chosen_N: jax.Array, rejected_N: jax.Array, *, beta: float = 1.0, weights_N: jax.Array | None = None
) -> Metrics:
    """Returns {name: (total, count)} of `chosen_reward`, `rejected_reward`, `reward_margin` and `reward_accuracy`.

    A reward is `beta` times a log-ratio; a log-probability, for a loss without a reference; or itself, for a reward model
    (`beta` 1). `reward_accuracy` is the share of pairs with a positive margin, as in TRL: equal rewards are wrong.

    Args:
      chosen_N: log-ratios, log-probabilities or rewards of the chosen answers.
      rejected_N: those of the rejected answers.
      beta: their factor.
      weights_N: 1 for pairs that count, 0 for padding; None counts all.

    Raises:
      ValueError: shapes differ, or `beta` is not positive.
    """
    check_pairs(chosen_N, rejected_N, beta)
    weights_N = jnp.ones_like(chosen_N) if weights_N is None else weights_N
    values = {
        "chosen_reward": beta * chosen_N,
        "rejected_reward": beta * rejected_N,
        "reward_margin": beta * (chosen_N - rejected_N),
        "reward_accuracy": (chosen_N > rejected_N).astype(chosen_N.dtype),
    }
    count = jnp.sum(weights_N)
    return jax.lax.stop_gradient({name: (jnp.sum(value_N * weights_N), count) for name, value_N in values.items()})


def logistic(margin_N: jax.Array, label_smoothing: float = 0.0) -> jax.Array:
    """-(1 - e) log s(m) - e log s(-m), where e is `label_smoothing`; [N].

    Raises:
      ValueError: `label_smoothing` is not in [0, 0.5).
    """
    check_smoothing(label_smoothing)
    # log s(-m) = log s(m) - m
    return jax.nn.softplus(-margin_N) + label_smoothing * margin_N


def margins(chosen_N: jax.Array, rejected_N: jax.Array, beta: float) -> jax.Array:
    """beta (chosen - rejected), the margins of the implicit rewards; raises ValueError as `check_pairs`."""
    check_pairs(chosen_N, rejected_N, beta)
    return beta * (chosen_N - rejected_N)


def check_pairs(chosen_N: jax.Array, rejected_N: jax.Array, beta: float) -> None:
    """Raises ValueError if the shapes of pairs differ, or `beta` is not positive."""
    check_shapes(chosen_N=chosen_N, rejected_N=rejected_N)
    check_positive(beta=beta)


def check_smoothing(label_smoothing: float) -> None:
    """Raises ValueError if the probability that a label is wrong is not in [0, 0.5)."""
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(
            f"label_smoothing={label_smoothing} is not in [0, 0.5), the probability that a label is wrong; if more than half"
            " are, swap the chosen and the rejected answers"
        )


def check_positive(**values: float) -> None:
    """Checks numbers by the names of their arguments.

    Raises:
      ValueError: one that is 0, negative, infinite or NaN.
    """
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name}={value} is not a positive number; papers use 0.01 to 10")


def check_shapes(**arrays: jax.Array) -> None:
    """Checks that arrays, by the names of their arguments, have one shape.

    Raises:
      ValueError: two differ.
    """
    (first, one), *others = arrays.items()
    for name, other in others:
        if jnp.shape(one) != jnp.shape(other):
            raise ValueError(f"{first} has the shape {jnp.shape(one)} and {name} {jnp.shape(other)}; give equal shapes")

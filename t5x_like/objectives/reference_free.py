"""Losses of pairs of answers without a reference model: SimPO, CPO and ORPO; pure functions of arrays [N], one entry per pair.

They read log-probabilities of sequences, from `preference.sequence_logps`, where the losses of `preference` read log-ratios.
Metrics are `preference.pair_metrics` of the same log-probabilities.
"""

import jax
import jax.numpy as jnp

from t5x_like.objectives.preference import check_pairs, check_shapes, logistic, margins


def simpo(
    chosen_N: jax.Array, rejected_N: jax.Array, *, beta: float, gamma: float, label_smoothing: float = 0.0
) -> jax.Array:
    """SimPO: -log s(beta (chosen - rejected) - gamma), s the logistic function (Meng et al. 2024, arXiv:2405.14734, 6).

    Args:
      chosen_N: mean log-probability per token of the chosen answers (`reduce="mean"`).
      rejected_N: that of the rejected answers.
      beta: factor of the rewards; the paper uses 2 to 10.
      gamma: target of the margin of rewards. The authors' code has the option gamma_beta_ratio = gamma / beta instead; TRL's
        is `simpo_gamma`, as here.
      label_smoothing: as in `preference.sigmoid`; 0 in the paper.

    Raises:
      ValueError: shapes differ, `beta` or `gamma` is out of range, or `label_smoothing` is.
    """
    if not 0 <= gamma < float("inf"):
        raise ValueError(f"gamma={gamma} is not a margin of 0 or more; the paper uses 0.3 to 0.5 times beta")
    return logistic(margins(chosen_N, rejected_N, beta) - gamma, label_smoothing)


def cpo(
    chosen_N: jax.Array,
    rejected_N: jax.Array,
    chosen_nll_N: jax.Array,
    *,
    beta: float,
    alpha: float = 1.0,
    label_smoothing: float = 0.0,
) -> jax.Array:
    """CPO: -log s(beta (chosen - rejected)) + alpha NLL(chosen), s the logistic function (Xu et al. 2024, arXiv:2401.08417).

    Args:
      chosen_N: log-probability of the chosen answers, summed over tokens.
      rejected_N: that of the rejected answers.
      chosen_nll_N: minus the log-likelihood of the chosen answers: sums over tokens in the paper; TRL and the authors' code
        average over the batch's tokens, which is minus `sequence_logps(..., reduce="token_mean")`.
      beta: factor of the rewards.
      alpha: weight of the likelihood, TRL's `cpo_alpha`; 1 in the paper.
      label_smoothing: as in `preference.sigmoid`; 0 in the paper.

    Raises:
      ValueError: shapes differ, or a number is out of range.
    """
    check_shapes(chosen_N=chosen_N, chosen_nll_N=chosen_nll_N)
    if not 0 <= alpha < float("inf"):
        raise ValueError(f"alpha={alpha} is not a weight of 0 or more; the paper uses 1")
    return logistic(margins(chosen_N, rejected_N, beta), label_smoothing) + alpha * chosen_nll_N


def orpo(chosen_N: jax.Array, rejected_N: jax.Array, chosen_nll_N: jax.Array, *, beta: float) -> jax.Array:
    """ORPO: NLL(chosen) - beta log s(log odds(chosen) - log odds(rejected)), where odds = p / (1 - p).

    Hong et al. 2024 (arXiv:2403.07691, equations 4 to 7). p is the geometric mean of the probabilities of the tokens.

    Args:
      chosen_N: log p of the chosen answers (`reduce="mean"`).
      rejected_N: that of the rejected answers.
      chosen_nll_N: minus the log-likelihood of the chosen answers: the mean over tokens, -`chosen_N`, in the paper. TRL
        averages over the batch's tokens, those of the prompts too.
      beta: weight of the odds ratio, lambda in the paper; 0.1 in TRL.

    Raises:
      ValueError: shapes differ, or `beta` is not positive.
    """
    check_pairs(chosen_N, rejected_N, beta)
    check_shapes(chosen_N=chosen_N, chosen_nll_N=chosen_nll_N)
    return chosen_nll_N + beta * logistic(log_odds(chosen_N) - log_odds(rejected_N))


def log_odds(logps_N: jax.Array) -> jax.Array:
    """log(p / (1 - p)) of log p [N]. It is finite: probabilities stop one rounding error below 1, and have no gradient there."""
    logps_N = jnp.minimum(logps_N, -jnp.finfo(logps_N.dtype).eps)
    return logps_N - jnp.log(-jnp.expm1(logps_N))

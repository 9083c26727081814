"""Losses of answers that are judged one by one, desirable or not: KTO and BCO; pure functions of arrays [N], one entry per row.

They read log-ratios of sequences, log p(y | x) - log p_ref(y | x), from `preference.log_ratios`. `beta` times a log-ratio is the
implicit reward. The mean of a loss over rows is the loss of a batch.
"""

import jax
import jax.numpy as jnp

from t5x_like.objectives.preference import check_positive, check_shapes
from t5x_like.types import Metrics


def kto(
    log_ratios_N: jax.Array,
    desirable_N: jax.Array,
    kl: jax.Array | float,
    *,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> jax.Array:
    """KTO: w_d (1 - s(beta (r - kl))) for a desirable row and w_u (1 - s(beta (kl - r))) for the others, s the logistic function.

    Ethayarajh et al. 2024, arXiv:2402.01306. With `kl` 0 it is TRL's "apo_zero_unpaired".

    Args:
      log_ratios_N: r, summed over tokens.
      desirable_N: 1 or true for desirable rows.
      kl: an estimate of KL(policy || reference) in nats, 0 or more: `mismatched_kl` of the batch (the paper and TRL),
        or a running value of it. It gets no gradient.
      beta: the strength of the pull to the reference.
      desirable_weight: w_d; the paper advises w_d times the number of desirable rows to be 1 to 4/3 times w_u times the others.
      undesirable_weight: w_u.

    Raises:
      ValueError: shapes differ, `kl` is not one number, or another number is not positive.
    """
    check_shapes(log_ratios_N=log_ratios_N, desirable_N=desirable_N)
    check_scalar(kl=kl)
    check_positive(beta=beta, desirable_weight=desirable_weight, undesirable_weight=undesirable_weight)
    gain_N = signs(desirable_N, log_ratios_N) * (log_ratios_N - jax.lax.stop_gradient(kl))
    return jnp.where(desirable_N != 0, desirable_weight, undesirable_weight) * jax.nn.sigmoid(-beta * gain_N)


def mismatched_kl(log_ratios_N: jax.Array, weights_N: jax.Array | None = None) -> jax.Array:
    """Estimates KL(policy || reference) for `kto` as max(0, mean log-ratio) of prompts with answers of other prompts.

    TRL moves the answers of a batch by one row. The estimate is biased, but costs no sampling.
    The mean is of all rows: take it over devices and microbatches before the loss. No gradient flows through it.

    Args:
      log_ratios_N: log-ratios of the mismatched rows, summed over tokens.
      weights_N: 1 for rows that count, 0 for padding; None counts all.
    """
    weights_N = jnp.ones_like(log_ratios_N) if weights_N is None else weights_N
    mean = jnp.sum(log_ratios_N * weights_N) / jnp.maximum(jnp.sum(weights_N), 1)
    return jax.lax.stop_gradient(jnp.maximum(mean, 0))


def bco(log_ratios_N: jax.Array, desirable_N: jax.Array, shift: jax.Array | float, *, beta: float) -> jax.Array:
    """BCO: -log s(beta r - shift) for a desirable row and -log s(shift - beta r) for the others, s the logistic function.

    Jung et al. 2024 (arXiv:2404.04656), without its weights of prompts.

    Args:
      log_ratios_N: r, summed over tokens.
      desirable_N: 1 or true for desirable rows.
      shift: the reward between both kinds of rows. TRL's BCO trainer takes the `running_mean` of the rewards of all rows so
        far, the paper the mean of the means of both kinds; TRL's "bco_pair" has none since 1.0. It gets no gradient.
      beta: the strength of the pull to the reference.

    Raises:
      ValueError: shapes differ, `shift` is not one number, or `beta` is not positive.
    """
    check_shapes(log_ratios_N=log_ratios_N, desirable_N=desirable_N)
    check_scalar(shift=shift)
    check_positive(beta=beta)
    return jax.nn.softplus(-signs(desirable_N, log_ratios_N) * (beta * log_ratios_N - jax.lax.stop_gradient(shift)))


def running_mean(
    mean: jax.Array, count: jax.Array, values_N: jax.Array, weights_N: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Returns (mean, count) of all values so far from those before and new values, without gradient; start at (0, 0).

    `weights_N` is 1 for values that count, 0 for padding; None counts all.
    """
    weights_N = jnp.ones_like(values_N) if weights_N is None else weights_N
    total = count + jnp.sum(weights_N)
    return jax.lax.stop_gradient((mean + jnp.sum((values_N - mean) * weights_N) / jnp.maximum(total, 1), total))


def unpaired_metrics(
    log_ratios_N: jax.Array,
    desirable_N: jax.Array,
    *,
    beta: float,
    threshold: jax.Array | float = 0.0,
    weights_N: jax.Array | None = None,
) -> Metrics:
    """Returns {name: (total, count)} of `chosen_reward` (of desirable rows), `rejected_reward` and `reward_accuracy`.

    `reward_accuracy` is the share of rows whose reward is on the right side of `threshold`: beta times `kl` for `kto`, the
    `shift` for `bco`. The margin of the rewards is the difference of their means.

    Args:
      log_ratios_N: log-ratios, as the loss reads them.
      desirable_N: 1 or true for desirable rows.
      beta: their factor.
      threshold: a reward.
      weights_N: 1 for rows that count, 0 for padding; None counts all.

    Raises:
      ValueError: shapes differ, or `beta` is not positive.
    """
    check_shapes(log_ratios_N=log_ratios_N, desirable_N=desirable_N)
    check_positive(beta=beta)
    weights_N = jnp.ones_like(log_ratios_N) if weights_N is None else weights_N
    chosen_N, reward_N = desirable_N != 0, beta * log_ratios_N
    right_N = jnp.where(chosen_N, reward_N > threshold, reward_N < threshold)
    metrics = {
        "chosen_reward": (jnp.sum(reward_N * chosen_N * weights_N), jnp.sum(chosen_N * weights_N)),
        "rejected_reward": (jnp.sum(reward_N * ~chosen_N * weights_N), jnp.sum(~chosen_N * weights_N)),
        "reward_accuracy": (jnp.sum(right_N * weights_N), jnp.sum(weights_N)),
    }
    return jax.lax.stop_gradient(metrics)


def signs(desirable_N: jax.Array, like_N: jax.Array) -> jax.Array:
    """1 for desirable rows and -1 for the others, in the type of `like_N`."""
    return jnp.where(desirable_N != 0, 1, -1).astype(like_N.dtype)


def check_scalar(**values: jax.Array | float) -> None:
    """Checks numbers by the names of their arguments.

    Raises:
      ValueError: an array has dimensions.
    """
    for name, value in values.items():
        if jnp.shape(value):
            raise ValueError(f"{name} has the shape {jnp.shape(value)}; give one number, such as the mean of the batch")

"""Losses of reward models, as pure functions of rewards: of pairs [N], and of K ranked answers to each of N prompts [N, K]."""

import math

import jax
import jax.numpy as jnp

from t5x_like.objectives.preference import check_shapes, logistic
from t5x_like.types import Metrics


def bradley_terry(
    chosen_N: jax.Array, rejected_N: jax.Array, margin_N: jax.Array | None = None, *, centering: float = 0.0
) -> jax.Array:
    """-log s(chosen - rejected - margin) + centering (chosen + rejected)^2, s the logistic function; [N].

    The model of Bradley and Terry 1952. The mean over pairs is the loss of a batch. Metrics are `preference.pair_metrics`.

    Args:
      chosen_N: rewards of the chosen answers.
      rejected_N: rewards of the rejected answers.
      margin_N: how much better the chosen ones are, larger for clearer preferences (Llama 2, arXiv:2307.09288, equation 2);
        None is 0.
      centering: weight of the term that keeps rewards around 0 (Eisenstein et al. 2023, arXiv:2312.09244, equation 2), TRL's
        `center_rewards_coefficient`; it recommends 0.01.

    Raises:
      ValueError: shapes differ, or `centering` is negative.
    """
    margin_N = jnp.zeros_like(chosen_N) if margin_N is None else margin_N
    check_shapes(chosen_N=chosen_N, rejected_N=rejected_N, margin_N=margin_N)
    if not 0 <= centering < math.inf:
        raise ValueError(f"centering={centering} is not a weight of 0 or more; 0.01 is usual")
    return logistic(chosen_N - rejected_N - margin_N) + centering * jnp.square(chosen_N + rejected_N)


def ranked_pairs(rewards_NK: jax.Array, ranks_NK: jax.Array, mask_NK: jax.Array | None = None) -> jax.Array:
    """The mean of -log s(better - worse) over all pairs of ranked answers to a prompt (InstructGPT, arXiv:2203.02155, 1); [N].

    Without ties and padding there are K (K - 1) / 2 pairs. A prompt without any is 0.

    Args:
      rewards_NK: rewards.
      ranks_NK: the order of the answers to a prompt, smaller for better ones; equal ranks are no pair.
      mask_NK: 1 for answers, 0 for padding; None is all.

    Raises:
      ValueError: shapes differ.
    """
    margin_NKK, pairs_NKK = compare(rewards_NK, ranks_NK, mask_NK)
    losses_NKK = jnp.where(pairs_NKK, logistic(margin_NKK), 0)
    return jnp.sum(losses_NKK, axis=(1, 2)) / jnp.maximum(jnp.sum(pairs_NKK, axis=(1, 2)), 1)


def plackett_luce(rewards_NK: jax.Array, ranks_NK: jax.Array, mask_NK: jax.Array | None = None) -> jax.Array:
    """-log p(ranking) = sum_k logsumexp_{j not before k} r_j - r_k: the answers are drawn one after the other; [N].

    Plackett 1975; DPO, arXiv:2305.18290, appendix A.3, where rewards are beta times log-ratios. Two answers give
    `bradley_terry`. Answers of equal rank each compete with the other (Breslow's approximation).

    Args:
      rewards_NK: rewards.
      ranks_NK: the order of the answers to a prompt, smaller for better ones.
      mask_NK: 1 for answers, 0 for padding; None is all.

    Raises:
      ValueError: shapes differ.
    """
    rewards_NK, mask_NK = masked(rewards_NK, ranks_NK, mask_NK)
    left_NKK = (ranks_NK[:, None, :] >= ranks_NK[:, :, None]) & mask_NK[:, None, :]
    # Padding competes with itself alone, so that no sum is empty.
    left_NKK |= jnp.eye(rewards_NK.shape[1], dtype=bool)
    norm_NK = jax.nn.logsumexp(jnp.where(left_NKK, rewards_NK[:, None, :], -jnp.inf), axis=2)
    return jnp.sum(jnp.where(mask_NK, norm_NK - rewards_NK, 0), axis=1)


def ranking_metrics(rewards_NK: jax.Array, ranks_NK: jax.Array, mask_NK: jax.Array | None = None) -> Metrics:
    """Returns {name: (total, count)} of `reward_margin` and `reward_accuracy` over all pairs of ranked answers.

    Equal rewards are wrong. Arguments are those of `ranked_pairs`.

    Raises:
      ValueError: shapes differ.
    """
    margin_NKK, pairs_NKK = compare(rewards_NK, ranks_NK, mask_NK)
    count = jnp.sum(pairs_NKK).astype(rewards_NK.dtype)
    values = {"reward_margin": margin_NKK, "reward_accuracy": (margin_NKK > 0).astype(rewards_NK.dtype)}
    return jax.lax.stop_gradient({name: (jnp.sum(x_NKK * pairs_NKK), count) for name, x_NKK in values.items()})


def compare(rewards_NK: jax.Array, ranks_NK: jax.Array, mask_NK: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """Returns (reward_k - reward_j, whether k is ranked before j and both are answers), [N, K, K] each."""
    rewards_NK, mask_NK = masked(rewards_NK, ranks_NK, mask_NK)
    better_NKK = ranks_NK[:, :, None] < ranks_NK[:, None, :]
    pairs_NKK = better_NKK & mask_NK[:, :, None] & mask_NK[:, None, :]
    return rewards_NK[:, :, None] - rewards_NK[:, None, :], pairs_NKK


def masked(rewards_NK: jax.Array, ranks_NK: jax.Array, mask_NK: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """Returns (rewards, 0 for padding; whether each is an answer), [N, K] each.

    Raises:
      ValueError: shapes differ.
    """
    mask_NK = jnp.ones(rewards_NK.shape, bool) if mask_NK is None else mask_NK
    check_shapes(rewards_NK=rewards_NK, ranks_NK=ranks_NK, mask_NK=mask_NK)
    mask_NK = mask_NK != 0
    return jnp.where(mask_NK, rewards_NK, 0), mask_NK

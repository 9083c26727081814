"""Samplers: functions `sampler(keys_B, logits_BV) -> tokens_B` that choose the next token, with one random key per row.

A NaN logit counts as -inf, so that its token is never chosen; a row of NaN alone gives any id. The log-probability of a token
chosen from such a row is NaN: `inference.infer` reports the row as failed, and evaluations warn.

`top_k`, `top_p`, `min_p`, `typical_p` and `eta` set the logits of the tokens that they exclude to -inf, and need logits without
NaN. Tokens are ranked by logit (by distance from the entropy in `typical_p`); of equal ones the lower id comes first.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Number = float | jax.Array  # of all rows, or one per row [B]

SMALLEST = float(jnp.finfo(jnp.float32).tiny)  # normal float32
HIGHEST_BIT = np.uint32(1 << 31)


@dataclasses.dataclass(frozen=True)
class Greedy:
    """Chooses the most likely token; the keys are unused."""

    def __call__(self, keys_B: jax.Array, logits_BV: jax.Array) -> jax.Array:
        """Token ids, int32 [B]."""
        return jnp.argmax(without_nan(logits_BV), axis=-1).astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class Sample:
    """Samples from softmax(logits / temperature), restricted by `top_k`, `top_p`, `min_p`, `typical_p` and `eta`.

    The restrictions apply after the temperature, in this order (that of Hugging Face), each to what the one before it left;
    the defaults restrict nothing. Every number holds for all rows, or there is one per row [B]. The smaller the temperature, the
    likelier is the largest logit: temperatures below the smallest normal float32 (1.2e-38) always choose it. Numbers that are
    traced are not checked.

    Attributes:
      temperature: above 0.
      top_k: the number of most likely tokens; 0 keeps all.
      top_p: the nucleus, the smallest set of most likely tokens with this total probability (Holtzman et al. 2020).
      min_p: tokens with at least this share of the largest probability (Nguyen et al. 2024).
      typical_p: the smallest set with this total probability of the tokens whose -log p is nearest to the entropy (Meister et
        al. 2023).
      eta: tokens with a probability of min(eta, sqrt(eta) exp(-entropy)), and the most likely one (Hewitt et al. 2022).
    """

    temperature: Number = 1.0
    top_k: int | jax.Array = 0
    top_p: Number = 1.0
    min_p: Number = 0.0
    typical_p: Number = 1.0
    eta: Number = 0.0

    def __post_init__(self) -> None:
        check_all(
            "temperature",
            self.temperature,
            lambda x: (x > 0) & np.isfinite(x),
            "must be positive and finite; use Greedy for the most likely token",
        )
        check_all("top_k", self.top_k, lambda x: x >= 0, "must be 0 (all tokens) or more")
        check_all("top_p", self.top_p, lambda x: (x > 0) & (x <= 1), "must be in (0, 1]; 1 keeps every token")
        check_all("min_p", self.min_p, lambda x: (x >= 0) & (x <= 1), "must be in [0, 1]; 0 keeps every token")
        check_all("typical_p", self.typical_p, lambda x: (x > 0) & (x <= 1), "must be in (0, 1]; 1 keeps every token")
        check_all("eta", self.eta, lambda x: (x >= 0) & (x < 1), "must be in [0, 1); 0 keeps every token")

    def __call__(self, keys_B: jax.Array, logits_BV: jax.Array) -> jax.Array:
        """Token ids, int32 [B].

        Raises:
          ValueError: `top_k` is larger than the vocabulary, or there is neither one temperature nor one per row.
        """
        return jax.vmap(jax.random.categorical)(keys_B, self.restrict(logits_BV)).astype(jnp.int32)

    def restrict(self, logits_BV: jax.Array) -> jax.Array:
        """The logits of the distribution that is sampled from; -inf for tokens that are never chosen."""
        logits_BV = divide_by_temperature(without_nan(logits_BV), self.temperature)
        logits_BV = restrict_rows(top_k, logits_BV, self.top_k, 0)
        logits_BV = restrict_rows(top_p, logits_BV, self.top_p, 1.0)
        logits_BV = restrict_rows(min_p, logits_BV, self.min_p, 0.0)
        logits_BV = restrict_rows(typical_p, logits_BV, self.typical_p, 1.0)
        return restrict_rows(eta, logits_BV, self.eta, 0.0)


def check_all(name: str, numbers: Any, valid: Callable[[np.ndarray], np.ndarray], need: str) -> None:
    """Raises ValueError if one of the numbers is not valid; traced ones are not checked."""
    if not isinstance(numbers, jax.core.Tracer) and not np.all(valid(np.asarray(numbers))):
        raise ValueError(f"{name}={numbers} {need}")


def restrict_rows(restriction: Callable, logits_BV: jax.Array, numbers: Any, neutral: float) -> jax.Array:
    """`restriction(logits_BV, numbers)`, unless all numbers are `neutral`, which changes nothing."""
    if isinstance(numbers, int | float):
        return logits_BV if numbers == neutral else restriction(logits_BV, numbers)
    changes = jnp.any(numbers != neutral)
    return jax.lax.cond(changes, lambda x_BV: restriction(x_BV, numbers), lambda x_BV: x_BV, logits_BV)


def per_row(number: Any, rows: int, name: str) -> Any:
    """A number as it is, numbers per row as a column [B, 1].

    Raises:
      ValueError: there is neither one number nor one per row.
    """
    shape = np.shape(number)
    if shape not in ((), (rows,)):
        raise ValueError(f"{name} has shape {shape} for {rows} rows; give one number or one per row")
    return number if shape == () else jnp.reshape(number, (rows, 1))


def without_nan(logits_BV: jax.Array) -> jax.Array:
    """Logits with -inf for NaN."""
    return jnp.where(jnp.isnan(logits_BV), -jnp.inf, logits_BV)


def divide_by_temperature(logits_BV: jax.Array, temperature: float | jax.Array) -> jax.Array:
    """logits / temperature (a number or [B]) up to a constant per row, without overflow; the largest logit becomes 0.

    Raises:
      ValueError: there is neither one temperature nor one per row.
    """
    temperature = per_row(temperature, logits_BV.shape[0], "temperature")
    # Both the temperature and its reciprocal, by which XLA may multiply, must be normal float32 numbers.
    clip = jnp.clip if isinstance(temperature, jax.Array) else np.clip
    temperature = jnp.asarray(clip(temperature, SMALLEST, 1 / SMALLEST), jnp.float32)
    return below_largest(logits_BV) / temperature


def below_largest(logits_BV: jax.Array) -> jax.Array:
    """logits - the largest of each row."""
    largest_B1 = jnp.max(logits_BV, axis=-1, keepdims=True)
    # A largest logit of -inf or inf would give NaN.
    return jnp.where(logits_BV == largest_B1, 0.0, logits_BV - largest_B1)


def top_k(logits_BV: jax.Array, k: int | jax.Array) -> jax.Array:
    """Keeps the k most likely tokens; 0 keeps all.

    Raises:
      ValueError: k is a number larger than the vocabulary.
    """
    vocab_size = logits_BV.shape[-1]
    if not isinstance(k, int):
        k_B1 = per_row(k, logits_BV.shape[0], "top_k")
        count = jnp.where(k_B1 == 0, vocab_size, k_B1)
        return jnp.where(is_in_smallest_set(logits_BV, jnp.ones_like(logits_BV), count), logits_BV, -jnp.inf)
    if k > vocab_size:
        raise ValueError(f"top_k={k} is larger than the vocabulary of {vocab_size} ids; lower it")
    best_BK, ids_BK = jax.lax.top_k(positive_zeros(logits_BV), k or vocab_size)  # of equal logits the lower ids
    rest_V = jnp.full(vocab_size, -jnp.inf)
    return jax.vmap(lambda best_K, ids_K: rest_V.at[ids_K].set(best_K))(best_BK, ids_BK)


def top_p(logits_BV: jax.Array, p: Number) -> jax.Array:
    """Keeps the smallest set of most likely tokens whose probability reaches p; 1 keeps all."""
    return keep_smallest_set(
        logits_BV, logits_BV, jax.nn.softmax(logits_BV, axis=-1), per_row(p, logits_BV.shape[0], "top_p")
    )


def min_p(logits_BV: jax.Array, p: Number) -> jax.Array:
    """Keeps the tokens whose probability is at least p times the largest one."""
    least = jnp.log(per_row(p, logits_BV.shape[0], "min_p"))
    return jnp.where(below_largest(logits_BV) >= least, logits_BV, -jnp.inf)


def typical_p(logits_BV: jax.Array, p: Number) -> jax.Array:
    """Keeps the smallest set of tokens with -log(probability) nearest to the entropy whose probability reaches p; 1 keeps all."""
    log_probs_BV = jax.nn.log_softmax(logits_BV, axis=-1)
    distance_BV = jnp.abs(log_probs_BV + entropy(log_probs_BV))
    return keep_smallest_set(
        logits_BV, -distance_BV, jnp.exp(log_probs_BV), per_row(p, logits_BV.shape[0], "typical_p")
    )


def eta(logits_BV: jax.Array, epsilon: Number) -> jax.Array:
    """Keeps the tokens whose probability is at least min(epsilon, sqrt(epsilon) exp(-entropy)), and the most likely."""
    epsilon = per_row(epsilon, logits_BV.shape[0], "eta")
    log_probs_BV = jax.nn.log_softmax(logits_BV, axis=-1)
    log_least_B1 = jnp.minimum(jnp.log(epsilon), jnp.log(epsilon) / 2 - entropy(log_probs_BV))
    kept_BV = (log_probs_BV >= log_least_B1) | (below_largest(logits_BV) == 0)
    return jnp.where(kept_BV, logits_BV, -jnp.inf)


def entropy(log_probs_BV: jax.Array) -> jax.Array:
    """The entropy of each row in nats, [B, 1]."""
    return -jnp.sum(jnp.where(log_probs_BV > -jnp.inf, jnp.exp(log_probs_BV) * log_probs_BV, 0.0), -1, keepdims=True)


def keep_smallest_set(logits_BV: jax.Array, scores_BV: jax.Array, probs_BV: jax.Array, p: Number) -> jax.Array:
    """The logits of the smallest set of tokens with the highest scores whose probability reaches p; 1 keeps all."""
    kept_BV = is_in_smallest_set(scores_BV, probs_BV, p) | (jnp.asarray(p) >= 1)
    return jnp.where(kept_BV, logits_BV, -jnp.inf)


def positive_zeros(scores_BV: jax.Array) -> jax.Array:
    """Scores with 0.0 for -0.0, which equals it but is ranked below it."""
    return jnp.where(scores_BV == 0, 0.0, scores_BV)


def is_in_smallest_set(scores_BV: jax.Array, probs_BV: jax.Array, p: Number) -> jax.Array:
    """Whether a token is in the smallest set of tokens with the highest scores whose probability reaches p, bool [B, V].

    It finds the lowest score of the set bit by bit, because sorting a large vocabulary takes many times as long.
    """
    bits_BV = jax.lax.bitcast_convert_type(positive_zeros(scores_BV), jnp.uint32)
    order_BV = jnp.where(bits_BV >> 31 == 1, ~bits_BV, bits_BV | HIGHEST_BIT)  # integers in the order of the scores

    def sum_probs(included_BV: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(included_BV, probs_BV, 0.0), axis=-1, keepdims=True)

    def set_bit(i: jax.Array, lowest_B1: jax.Array) -> jax.Array:
        higher_B1 = lowest_B1 | (HIGHEST_BIT >> i.astype(jnp.uint32))
        return jnp.where(sum_probs(order_BV >= higher_B1) >= p, higher_B1, lowest_B1)

    lowest_B1 = jax.lax.fori_loop(0, 32, set_bit, jnp.zeros_like(order_BV[:, :1]))
    above_BV, tied_BV = order_BV > lowest_B1, order_BV == lowest_B1
    tied_probs_BV = jnp.where(tied_BV, probs_BV, 0.0)
    before_BV = sum_probs(above_BV) + jnp.cumsum(tied_probs_BV, axis=-1) - tied_probs_BV
    return above_BV | (tied_BV & (before_BV < p))

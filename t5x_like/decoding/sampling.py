"""Samplers: functions `sampler(keys_B, logits_BV) -> tokens_B` that choose the next token, with one random key per row.

A NaN logit counts as -inf, so that its token is never chosen; a row of NaN alone gives any id. The log-probability of a token
chosen from such a row is NaN: `inference.infer` reports the row as failed, and evaluations warn.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

SMALLEST = float(jnp.finfo(jnp.float32).tiny)  # normal float32


@dataclasses.dataclass(frozen=True)
class Greedy:
    """Chooses the most likely token; the keys are unused."""

    def __call__(self, keys_B: jax.Array, logits_BV: jax.Array) -> jax.Array:
        """Token ids, int32 [B]."""
        return jnp.argmax(without_nan(logits_BV), axis=-1).astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class Sample:
    """Samples from softmax(logits / temperature), restricted to `top_k` tokens (0: all) and to the nucleus `top_p`.

    The nucleus is the smallest set of most likely tokens with total probability `top_p` (Holtzman et al. 2020). Both
    restrictions apply after the temperature, top-k first. The smaller the temperature, the likelier is the largest logit:
    temperatures below the smallest normal float32 (1.2e-38) always choose it.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise ValueError(
                f"temperature={self.temperature} must be positive and finite; use Greedy for the most likely token"
            )
        if self.top_k < 0:
            raise ValueError(f"top_k={self.top_k} must be 0 (all tokens) or more")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p} must be in (0, 1]; 1 keeps every token")

    def __call__(self, keys_B: jax.Array, logits_BV: jax.Array) -> jax.Array:
        """Token ids, int32 [B]."""
        logits_BV = divide_by_temperature(without_nan(logits_BV), self.temperature)
        if self.top_k:
            logits_BV = top_k(logits_BV, self.top_k)
        if self.top_p < 1:
            logits_BV = top_p(logits_BV, self.top_p)
        return jax.vmap(jax.random.categorical)(keys_B, logits_BV).astype(jnp.int32)


def without_nan(logits_BV: jax.Array) -> jax.Array:
    """Logits with -inf for NaN."""
    return jnp.where(jnp.isnan(logits_BV), -jnp.inf, logits_BV)


def divide_by_temperature(logits_BV: jax.Array, temperature: float) -> jax.Array:
    """logits / temperature up to a constant per row, without overflow; the largest logit becomes 0."""
    largest_B1 = jnp.max(logits_BV, axis=-1, keepdims=True)
    # A largest logit of -inf or inf would give NaN.
    below_BV = jnp.where(logits_BV == largest_B1, 0.0, logits_BV - largest_B1)
    # Both the temperature and its reciprocal, by which XLA may multiply, must be normal float32 numbers.
    return below_BV / min(max(temperature, SMALLEST), 1 / SMALLEST)


def top_k(logits_BV: jax.Array, k: int) -> jax.Array:
    """Sets every logit below the k-th largest to -inf.

    Raises:
      ValueError: k is larger than the vocabulary.
    """
    if k > logits_BV.shape[-1]:
        raise ValueError(f"top_k={k} is larger than the vocabulary of {logits_BV.shape[-1]} ids; lower it")
    threshold_B1 = jax.lax.top_k(logits_BV, k)[0][:, -1:]
    return jnp.where(logits_BV >= threshold_B1, logits_BV, -jnp.inf)


def top_p(logits_BV: jax.Array, p: float) -> jax.Array:
    """Sets to -inf every logit outside the smallest set of most likely tokens whose probability reaches p."""
    sorted_BV = jnp.sort(logits_BV, axis=-1, descending=True)
    probs_BV = jax.nn.softmax(sorted_BV, axis=-1)
    before_BV = jnp.cumsum(probs_BV, axis=-1) - probs_BV
    threshold_B1 = jnp.min(jnp.where(before_BV < p, sorted_BV, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(logits_BV >= threshold_B1, logits_BV, -jnp.inf)

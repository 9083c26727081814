"""Ways to choose the next token: `choose(keys_B, logits_BV) -> tokens_B`, one random key an example."""

import dataclasses

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Greedy:
    """The likeliest token; the keys are not used."""

    def __call__(self, keys_B: jax.Array, logits_BV: jax.Array) -> jax.Array:
        return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class Sample:
    """A random token from softmax(logits / temperature), among the `top_k` likeliest (0: all) and the smallest set of
    probability `top_p` (nucleus sampling, Holtzman et al. 2020); both are taken after the temperature, top_k first."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self):
        if self.temperature <= 0:
            raise ValueError(f"temperature={self.temperature} must be positive; for the likeliest token use Greedy")
        if self.top_k < 0:
            raise ValueError(f"top_k={self.top_k} must be 0 (all tokens) or more")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p} must be in (0, 1]; 1 keeps every token")

    def __call__(self, keys_B: jax.Array, logits_BV: jax.Array) -> jax.Array:
        logits_BV = logits_BV / self.temperature
        if self.top_k:
            logits_BV = top_k(logits_BV, self.top_k)
        if self.top_p < 1:
            logits_BV = top_p(logits_BV, self.top_p)
        return jax.vmap(jax.random.categorical)(keys_B, logits_BV).astype(jnp.int32)


def top_k(logits_BV: jax.Array, k: int) -> jax.Array:
    """Everything below the k-th largest logit becomes -inf.

    Raises:
      ValueError: k is more than the vocabulary.
    """
    if k > logits_BV.shape[-1]:
        raise ValueError(f"top_k={k} is more than the {logits_BV.shape[-1]} ids of the vocabulary; lower it")
    least_B1 = jax.lax.top_k(logits_BV, k)[0][:, -1:]
    return jnp.where(logits_BV >= least_B1, logits_BV, -jnp.inf)


def top_p(logits_BV: jax.Array, p: float) -> jax.Array:
    """Everything outside the smallest set of likeliest tokens whose probability reaches p becomes -inf."""
    sorted_BV = jnp.sort(logits_BV, axis=-1, descending=True)
    probs_BV = jax.nn.softmax(sorted_BV, axis=-1)
    before_BV = jnp.cumsum(probs_BV, axis=-1) - probs_BV
    least_B1 = jnp.min(jnp.where(before_BV < p, sorted_BV, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(logits_BV >= least_B1, logits_BV, -jnp.inf)

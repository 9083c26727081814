"""Samplers against slow NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_like.decoding.sampling import Greedy, Sample, top_k, top_p

LOGITS = jax.random.normal(jax.random.key(0), (5, 12)) * 2


def support(logits_BV):
    return [set(np.flatnonzero(np.isfinite(row))) for row in np.asarray(logits_BV)]


def test_greedy_takes_the_most_likely_token():
    np.testing.assert_array_equal(Greedy()(None, LOGITS), np.argmax(LOGITS, -1))


@pytest.mark.parametrize("k", [1, 3, 12])
def test_top_k_keeps_the_k_most_likely_tokens(k):
    expected = [set(np.argsort(row)[::-1][:k]) for row in np.asarray(LOGITS)]
    assert support(top_k(LOGITS, k)) == expected


@pytest.mark.parametrize("p", [0.05, 0.5, 0.9, 0.999])
def test_top_p_keeps_the_smallest_set_that_reaches_p(p):
    for row, kept in zip(np.asarray(LOGITS, np.float64), support(top_p(LOGITS, p)), strict=True):
        probs = np.exp(row) / np.exp(row).sum()
        order, expected, mass = np.argsort(probs)[::-1], set(), 0.0
        for token in order:
            expected.add(token)
            mass += probs[token]
            if mass >= p:
                break
        assert kept == expected


@pytest.mark.parametrize("options", [dict(), dict(temperature=0.5), dict(temperature=2.0, top_k=4), dict(top_p=0.7)])
def test_samples_follow_the_probabilities(options):
    n, logits = 20_000, LOGITS[:1]
    sampler = Sample(**options)
    sampled = jax.jit(lambda keys: sampler(keys, jnp.broadcast_to(logits, (n, 12))))(
        jax.random.split(jax.random.key(1), n)
    )
    counts = np.bincount(np.asarray(sampled), minlength=12)
    scaled = logits / options.get("temperature", 1.0)
    scaled = top_k(scaled, options["top_k"]) if "top_k" in options else scaled
    scaled = top_p(scaled, options["top_p"]) if "top_p" in options else scaled
    expected = np.asarray(jax.nn.softmax(scaled)[0]) * n
    possible = expected > 0
    assert not counts[~possible].any()
    chi_squared = ((counts - expected)[possible] ** 2 / expected[possible]).sum()
    assert chi_squared < 35  # 11 degrees of freedom: exceeded with probability 2e-4


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(temperature=0.0), "temperature=0.0"),
        (dict(temperature=float("nan")), "temperature=nan must be positive and finite"),
        (dict(temperature=float("inf")), "temperature=inf must be positive and finite"),
        (dict(top_p=1.5), "top_p=1.5"),
        (dict(top_p=float("nan")), "top_p=nan"),
        (dict(top_k=-1), "top_k=-1"),
    ],
)
def test_bad_values_raise(options, message):
    with pytest.raises(ValueError, match=message):
        Sample(**options)


def test_top_k_above_the_vocabulary_raises():
    with pytest.raises(ValueError, match="top_k=13 is larger than the vocabulary of 12 ids"):
        Sample(top_k=13)(jax.random.split(jax.random.key(0), 5), LOGITS)


@pytest.mark.parametrize("temperature", [1e-45, 1e-40, 1e-38, 1e-30])
@pytest.mark.parametrize("options", [dict(), dict(top_k=3), dict(top_p=0.5)])
def test_the_limit_of_small_temperatures_is_greedy(temperature, options):
    sampler, keys = Sample(temperature, **options), jax.random.split(jax.random.key(0), 5)
    for logits in (LOGITS, LOGITS - 1e4, jnp.where(LOGITS > 0, LOGITS, -jnp.inf)):
        np.testing.assert_array_equal(jax.jit(sampler)(keys, logits), Greedy()(None, logits))


def test_the_limit_of_large_temperatures_is_uniform_over_the_possible_tokens():
    sampler, n = Sample(1e300), 3000
    logits = jnp.broadcast_to(jnp.array([5.0, -3.0, -jnp.inf, 0.0]), (n, 4))
    counts = np.bincount(sampler(jax.random.split(jax.random.key(0), n), logits), minlength=4)
    assert counts[2] == 0 and (np.abs(counts[[0, 1, 3]] - n / 3) < 150).all()


@pytest.mark.parametrize("sampler", [Greedy(), Sample(), Sample(0.3, top_k=2), Sample(top_p=0.5)])
def test_a_nan_logit_is_never_chosen_and_other_rows_are_unaffected(sampler):
    keys = jax.random.split(jax.random.key(0), 5)
    damaged = LOGITS.at[1, int(jnp.argmax(LOGITS[1]))].set(jnp.nan).at[3].set(jnp.nan)
    tokens, minus = sampler(keys, damaged), sampler(keys, jnp.where(jnp.isnan(damaged), -jnp.inf, damaged))
    np.testing.assert_array_equal(tokens, minus)
    np.testing.assert_array_equal(tokens[jnp.array([0, 2, 4])], sampler(keys, LOGITS)[jnp.array([0, 2, 4])])
    assert 0 <= tokens[3] < 12 and not jnp.isnan(damaged[1, tokens[1]])
    assert jnp.isnan(jax.nn.log_softmax(damaged)[jnp.array([1, 3])]).all()

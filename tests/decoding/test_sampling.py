"""Samplers against slow NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_like.decoding.sampling import Greedy, Sample, divide_by_temperature, eta, min_p, top_k, top_p, typical_p

LOGITS = jax.random.normal(jax.random.key(0), (5, 12)) * 2
TIES = jnp.concatenate(
    [jnp.round(LOGITS), jnp.zeros((1, 12)), jnp.where(LOGITS[:1] > 0, 1.0, -jnp.inf)]
)  # equal logits
NAMES = {"top_k": top_k, "top_p": top_p, "min_p": min_p, "typical_p": typical_p, "eta": eta}


def support(logits_BV):
    return [set(np.flatnonzero(np.isfinite(row))) for row in np.asarray(logits_BV)]


def slow(name, logits_V, value):
    """The logits that a restriction leaves, in float64 and one token after the other; of equal tokens the lower id is first."""
    probs = np.exp(logits_V - logits_V.max())
    probs /= probs.sum()
    if name == "min_p":
        kept = np.flatnonzero(probs >= value * probs.max() * (1 - 1e-6))
    elif name == "eta":
        entropy = sum(-p * np.log(p) for p in probs if p)
        least = min(value, value**0.5 * np.exp(-entropy))
        kept = np.flatnonzero((probs >= least) | (probs == probs.max()))
    else:
        information = np.array([-np.log(p) if p else np.inf for p in probs])
        entropy = sum(p * i for p, i in zip(probs, information, strict=True) if p)
        rank = np.round(abs(information - entropy), 9) if name == "typical_p" else -logits_V
        kept, mass = [], 0.0
        for token in sorted(range(len(probs)), key=lambda v: (rank[v], v)):
            if len(kept) >= value if name == "top_k" else mass >= value:
                break
            kept.append(token)
            mass += probs[token]
    return np.where(np.isin(np.arange(len(probs)), kept), logits_V, -np.inf)


def slow_sampler(logits_V, temperature=1.0, **options):
    """The logits that `Sample` samples from."""
    logits_V = np.asarray(logits_V, np.float64) / temperature
    for name in NAMES:
        logits_V = slow(name, logits_V, options[name]) if name in options else logits_V
    return logits_V


def test_greedy_takes_the_most_likely_token():
    np.testing.assert_array_equal(Greedy()(None, LOGITS), np.argmax(LOGITS, -1))


@pytest.mark.parametrize("logits", [LOGITS, TIES], ids=["distinct", "ties"])
@pytest.mark.parametrize(
    "name, values",
    [
        ("top_k", (1, 3, 4, 7, 12)),
        ("top_p", (1e-6, 0.05, 0.47, 0.7, 0.9, 0.999)),
        ("min_p", (1e-6, 0.13, 0.45, 1.0)),
        ("typical_p", (1e-6, 0.21, 0.47, 0.9, 0.999)),
        ("eta", (1e-6, 0.003, 0.02, 0.11, 0.6, 0.99)),
    ],
)
def test_a_restriction_keeps_exactly_the_tokens_of_its_definition(name, values, logits):
    for value in values:
        kept = jax.jit(NAMES[name], static_argnums=1)(logits, value)
        for row, (logits_V, kept_V) in enumerate(zip(np.asarray(logits), np.asarray(kept), strict=True)):
            np.testing.assert_array_equal(kept_V, slow(name, logits_V, value), err_msg=f"{name}={value}, row {row}")


def test_ties_are_cut_by_rank():
    equal = jnp.zeros((1, 8))
    assert support(top_k(equal, 3)) == support(top_p(equal, 0.3)) == support(typical_p(equal, 0.3)) == [{0, 1, 2}]
    assert support(min_p(equal, 1.0)) == [set(range(8))]


@pytest.mark.parametrize(
    "options",
    [
        dict(),
        dict(temperature=0.5),
        dict(temperature=2.0, top_k=4),
        dict(top_p=0.7),
        dict(min_p=0.1),
        dict(typical_p=0.6),
        dict(eta=0.3),
        dict(temperature=2.0, top_k=9, top_p=0.95, min_p=0.02, typical_p=0.9, eta=0.4),
    ],
)
@pytest.mark.parametrize("row", [0, 3])
def test_samples_follow_the_renormalised_probabilities(options, row):
    n, sampler, logits_V = 20_000, Sample(**options), TIES[row]
    sampled = jax.jit(lambda keys: sampler(keys, jnp.broadcast_to(logits_V, (n, 12))))(
        jax.random.split(jax.random.key(1), n)
    )
    counts = np.bincount(np.asarray(sampled), minlength=12)
    expected = np.exp(slow_sampler(logits_V, **options))
    expected *= n / expected.sum()
    possible = expected > 0
    assert not counts[~possible].any()
    chi_squared = ((counts - expected)[possible] ** 2 / expected[possible]).sum()
    assert chi_squared < 35  # at most 11 degrees of freedom: exceeded with probability 2e-4


def test_the_temperature_may_differ_by_row():
    temperatures = [0.3, 1.0, 2.5, 1e-40, 1e38]
    keys, options = jax.random.split(jax.random.key(2), 5), dict(top_p=0.9)
    together = jax.jit(lambda t: Sample(t, **options)(keys, LOGITS))(jnp.array(temperatures, jnp.float32))
    alone = [Sample(t, **options)(keys[i : i + 1], LOGITS[i : i + 1])[0] for i, t in enumerate(temperatures)]
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_array_equal(together, Sample(np.array(temperatures), **options)(keys, LOGITS))
    scaled = divide_by_temperature(LOGITS, jnp.array([1.0, 2.0, 3.0, 4.0, 5.0]))
    np.testing.assert_allclose(scaled, (LOGITS - LOGITS.max(1, keepdims=True)) / np.arange(1, 6)[:, None], rtol=1e-6)


@pytest.mark.parametrize("logits", [LOGITS, TIES], ids=["distinct", "ties"])
@pytest.mark.parametrize(
    "name, values",
    [("top_k", (0, 3)), ("top_p", (1.0, 0.6)), ("min_p", (0.0, 0.3)), ("typical_p", (1.0, 0.5)), ("eta", (0.0, 0.4))],
)
def test_a_restriction_may_differ_by_row(name, values, logits):
    per_row = jnp.resize(jnp.array(values), len(logits))
    restricted = jax.jit(lambda numbers: Sample(**{name: numbers}).restrict(logits))(per_row)
    for row, value in enumerate(per_row.tolist()):
        np.testing.assert_array_equal(restricted[row], Sample(**{name: value}).restrict(logits)[row])
    neutral = jnp.resize(jnp.array(values[:1]), len(logits))
    np.testing.assert_array_equal(Sample(**{name: neutral}).restrict(logits), Sample().restrict(logits))


def test_a_row_does_not_depend_on_the_others():
    sampler, keys = Sample(1.5, 9, 0.9, 0.01, 0.9), jax.random.split(jax.random.key(3), len(TIES))
    together = sampler(keys, TIES)
    for row in range(len(TIES)):
        assert sampler(keys[row : row + 1], TIES[row : row + 1])[0] == together[row]


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(temperature=0.0), "temperature=0.0"),
        (dict(temperature=float("nan")), "temperature=nan must be positive and finite"),
        (dict(temperature=float("inf")), "temperature=inf must be positive and finite"),
        (dict(top_p=1.5), "top_p=1.5"),
        (dict(top_p=float("nan")), "top_p=nan"),
        (dict(top_k=-1), "top_k=-1"),
        (dict(min_p=1.01), r"min_p=1.01 must be in \[0, 1\]"),
        (dict(min_p=-0.1), "min_p=-0.1"),
        (dict(typical_p=0.0), r"typical_p=0.0 must be in \(0, 1\]"),
        (dict(typical_p=float("nan")), "typical_p=nan"),
        (dict(eta=1.0), r"eta=1.0 must be in \[0, 1\)"),
        (dict(eta=float("nan")), "eta=nan"),
        (dict(temperature=jnp.array([1.0, 0.0])), r"temperature=\[1. 0.\] must be positive"),
    ],
)
def test_bad_values_raise(options, message):
    with pytest.raises(ValueError, match=message):
        Sample(**options)


def test_top_k_above_the_vocabulary_raises():
    with pytest.raises(ValueError, match="top_k=13 is larger than the vocabulary of 12 ids"):
        Sample(top_k=13)(jax.random.split(jax.random.key(0), 5), LOGITS)


def test_temperatures_of_another_number_of_rows_raise():
    with pytest.raises(ValueError, match=r"temperature has shape \(3,\) for 5 rows; give one number or one per row"):
        Sample(jnp.ones(3))(jax.random.split(jax.random.key(0), 5), LOGITS)


@pytest.mark.parametrize("temperature", [1e-45, 1e-40, 1e-38, 1e-30])
@pytest.mark.parametrize(
    "options", [dict(), dict(top_k=3), dict(top_p=0.5), dict(min_p=0.1), dict(typical_p=0.5), dict(eta=0.1)]
)
def test_the_limit_of_small_temperatures_is_greedy(temperature, options):
    sampler, keys = Sample(temperature, **options), jax.random.split(jax.random.key(0), 5)
    for logits in (LOGITS, LOGITS - 1e4, jnp.where(LOGITS > 0, LOGITS, -jnp.inf)):
        np.testing.assert_array_equal(jax.jit(sampler)(keys, logits), Greedy()(None, logits))


def test_the_limit_of_large_temperatures_is_uniform_over_the_possible_tokens():
    sampler, n = Sample(1e300), 3000
    logits = jnp.broadcast_to(jnp.array([5.0, -3.0, -jnp.inf, 0.0]), (n, 4))
    counts = np.bincount(sampler(jax.random.split(jax.random.key(0), n), logits), minlength=4)
    assert counts[2] == 0 and (np.abs(counts[[0, 1, 3]] - n / 3) < 150).all()


@pytest.mark.parametrize(
    "sampler", [Greedy(), Sample(), Sample(0.3, top_k=2), Sample(top_p=0.5), Sample(1.0, 9, 0.9, 0.1, 0.5)]
)
def test_a_nan_logit_is_never_chosen_and_other_rows_are_unaffected(sampler):
    keys = jax.random.split(jax.random.key(0), 5)
    damaged = LOGITS.at[1, int(jnp.argmax(LOGITS[1]))].set(jnp.nan).at[3].set(jnp.nan)
    tokens, minus = sampler(keys, damaged), sampler(keys, jnp.where(jnp.isnan(damaged), -jnp.inf, damaged))
    np.testing.assert_array_equal(tokens, minus)
    np.testing.assert_array_equal(tokens[jnp.array([0, 2, 4])], sampler(keys, LOGITS)[jnp.array([0, 2, 4])])
    assert 0 <= tokens[3] < 12 and not jnp.isnan(damaged[1, tokens[1]])
    assert jnp.isnan(jax.nn.log_softmax(damaged)[jnp.array([1, 3])]).all()

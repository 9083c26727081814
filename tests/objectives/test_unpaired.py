"""Laws of the losses of answers that come one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_like.objectives import unpaired
from t5x_like.objectives.preference import pair_loss
from tests.objectives.test_preference import EXPECTED


def test_kl_is_estimated_as_trl_does():
    kinds = [case for case in EXPECTED["cases"] if case["name"] == "kto"]
    for case in kinds:
        ours = unpaired.mismatched_kl(jnp.array(case["mismatched"]))
        np.testing.assert_allclose(ours, case["inputs"]["kl"], rtol=1e-6)
    assert sorted(case["inputs"]["kl"] > 0 for case in kinds) == [False, True, True]


def test_kl_has_no_gradient_and_padding_counts_nothing():
    ratios = jnp.array([1.0, 3.0, 50.0])
    assert unpaired.mismatched_kl(ratios, jnp.array([1.0, 1.0, 0.0])) == 2
    assert unpaired.mismatched_kl(ratios, jnp.zeros(3)) == 0
    assert not jax.grad(unpaired.mismatched_kl)(ratios).any()
    flags = jnp.array([1, 0, 1])
    assert jax.grad(lambda kl: jnp.sum(unpaired.kto(ratios, flags, kl, beta=0.1)))(1.0) == 0
    assert jax.grad(lambda shift: jnp.sum(unpaired.bco(ratios, flags, shift, beta=0.1)))(1.0) == 0


def test_the_running_mean_is_the_mean_of_all_values():
    values = np.random.default_rng(0).normal(size=12).astype(np.float32)
    state = (jnp.float32(0), jnp.float32(0))
    for part in np.split(values, (2, 7)):
        state = jax.jit(unpaired.running_mean)(*state, part)
    np.testing.assert_allclose(state[0], values.mean(), rtol=1e-6)
    assert state[1] == 12
    weights = np.array([1.0, 0.0])
    assert unpaired.running_mean(2.0, 3.0, np.array([6.0, 99.0]), weights) == (3.0, 4.0)
    assert unpaired.running_mean(0.0, 0.0, np.ones(2), np.zeros(2)) == (0.0, 0.0)


def test_the_running_mean_is_the_shift_of_trl():
    state = (0.0, 0.0)
    for case in EXPECTED["cases"]:
        if case["name"] == "bco":
            rewards = case["options"]["beta"] * np.array(case["inputs"]["log_ratios_N"])
            state = unpaired.running_mean(*state, rewards)
            np.testing.assert_allclose(state[0], case["inputs"]["shift"], rtol=1e-5)
    assert state[1] == 12


def test_rows_of_both_kinds_without_kl_add_up_to_apo_zero():
    chosen, rejected = jax.random.normal(jax.random.key(0), (2, 5)) * 4
    losses = [unpaired.kto(x, jnp.full(5, flag), 0.0, beta=0.3) for x, flag in ((chosen, True), (rejected, False))]
    np.testing.assert_allclose(sum(losses), pair_loss("apo_zero", chosen, rejected, beta=0.3), rtol=1e-6)


def test_at_the_threshold_a_row_costs_half_its_weight():
    flags, options = jnp.array([True, False]), {"desirable_weight": 1.5, "undesirable_weight": 0.5}
    np.testing.assert_allclose(unpaired.kto(jnp.full(2, 3.0), flags, 3.0, beta=0.1, **options), [0.75, 0.25])
    np.testing.assert_allclose(unpaired.bco(jnp.full(2, 3.0), flags, 0.3, beta=0.1), np.log(2), rtol=1e-6)


@pytest.mark.parametrize("loss", [unpaired.kto, unpaired.bco])
def test_extreme_log_ratios_give_finite_losses_and_gradients(loss):
    ratios, flags = jnp.array([-1e4, 1e4, -1e4, 1e4]), jnp.array([1, 1, 0, 0])
    value, gradient = jax.value_and_grad(lambda x: jnp.sum(loss(x, flags, 1.0, beta=1.0)))(ratios)
    assert jnp.isfinite(value) and jnp.isfinite(gradient).all()


def test_metrics_are_sums_over_rows_of_each_kind():
    ratios, flags = jnp.array([4.0, -2.0, 6.0, -8.0, 99.0]), jnp.array([1, 1, 0, 0, 1])
    weights = jnp.array([1.0, 1.0, 1.0, 1.0, 0.0])
    metrics = unpaired.unpaired_metrics(ratios, flags, beta=0.5, threshold=0.5, weights_N=weights)
    expected = {"chosen_reward": (1.0, 2.0), "rejected_reward": (-1.0, 2.0), "reward_accuracy": (2.0, 4.0)}
    assert jax.tree.map(float, metrics) == expected

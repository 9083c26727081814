"""Laws of the losses of reward models."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_like.objectives import rewards

LOSSES = (rewards.ranked_pairs, rewards.plackett_luce)
GENERATOR = np.random.default_rng(0)
REWARDS = GENERATOR.normal(size=(5, 4)).astype(np.float32)
RANKS = np.array([GENERATOR.permutation(4) for _ in range(5)])


def sum_and_gradient(loss, values, *others):
    return jax.jit(jax.value_and_grad(lambda x: jnp.sum(loss(x, *others))))(values)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_ranking_of_two_is_bradley_terry(loss):
    pairs, ranks = REWARDS[:, :2], RANKS[:, :2]
    chosen = np.where(ranks[:, 0] < ranks[:, 1], *pairs.T)
    expected = rewards.bradley_terry(chosen, pairs.sum(1) - chosen)
    np.testing.assert_allclose(jax.jit(loss)(pairs, ranks), expected, rtol=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_rankings_depend_on_the_order_of_ranks_and_differences_of_rewards_alone(loss):
    order = [2, 0, 3, 1]
    same = jax.jit(loss)(REWARDS[:, order] + 7, 3 * RANKS[:, order] - 1)
    np.testing.assert_allclose(jax.jit(loss)(REWARDS, RANKS), same, rtol=1e-4)


@pytest.mark.parametrize("loss", LOSSES)
def test_padding_of_a_ranking_counts_nothing_and_has_no_gradient(loss):
    padding = ((0, 0), (0, 1))
    values = np.pad(REWARDS, padding, constant_values=np.nan)
    total, gradient = sum_and_gradient(loss, values, np.pad(RANKS, padding), np.pad(np.ones((5, 4)), padding))
    expected = sum_and_gradient(loss, REWARDS, RANKS)
    np.testing.assert_allclose(total, expected[0], rtol=1e-6)
    np.testing.assert_allclose(gradient, np.pad(expected[1], padding), rtol=1e-5)


def test_probabilities_of_all_rankings_sum_to_1():
    values, orders = np.array([1.0, -2.0, 0.5]), [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]]
    losses = jax.jit(rewards.plackett_luce)(np.tile(values, (6, 1)), np.array(orders))
    np.testing.assert_allclose(np.sum(np.exp(-losses)), 1, rtol=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_extreme_rewards_of_rankings_give_finite_losses_and_gradients(loss):
    values, ranks = np.array([[-1e4, 0.0, 1e4], [1e4, 0.0, -1e4]], np.float32), np.array([[0, 1, 2]] * 2)
    total, gradient = sum_and_gradient(loss, values, ranks)
    assert np.isfinite(total) and np.isfinite(gradient).all()


def test_extreme_rewards_of_pairs_give_finite_losses_and_gradients():
    values = np.array([[-1e4, 0.0, 1e4], [1e4, 0.0, -1e4]], np.float32)
    total, gradient = sum_and_gradient(lambda x: rewards.bradley_terry(*x, centering=0.01), values)
    assert np.isfinite(total) and np.isfinite(gradient).all()


def test_centering_pulls_rewards_to_0_where_the_margin_does_not():
    pair = np.array([[5.0], [4.0]], np.float32)
    _, centered = sum_and_gradient(lambda x: rewards.bradley_terry(*x, centering=0.5), pair)
    _, plain = sum_and_gradient(lambda x: rewards.bradley_terry(*x), pair)
    np.testing.assert_allclose(centered - plain, 9, rtol=1e-5)
    assert rewards.bradley_terry(*pair, np.ones(1, np.float32)) == pytest.approx(np.log(2))


def test_ranking_metrics_count_pairs():
    values, ranks = np.array([[3.0, 1.0, 2.0], [1.0, 1.0, 9.0]]), np.array([[0, 1, 2], [0, 1, 1]])
    mask = np.array([[1, 1, 1], [1, 1, 0]])
    metrics = jax.jit(rewards.ranking_metrics)(values, ranks, mask)
    # margins 2, 1, -1 and 0
    assert jax.tree.map(float, metrics) == {"reward_margin": (2.0, 4.0), "reward_accuracy": (2.0, 4.0)}

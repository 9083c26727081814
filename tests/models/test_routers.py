"""Routing and its auxiliary losses against numpy."""

import math

import jax
import numpy as np
import pytest

from t5x_like.models.routers import ExpertChoice, TopK
from tests.models.contexts import array, context

E, D = 4, 8
SEGMENTS = np.array([[1, 1, 1, 2, 2, 0], [1, 1, 1, 1, 1, 1]])


def route(router, x, gate, segments=SEGMENTS):
    params = {"params": {"gate": {"kernel": gate}}}
    routing, sown = router.apply(params, x, context(segments), mutable=["losses"])
    return routing, {name: value[0] for name, value in sown["losses"].items()}


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)


@pytest.mark.parametrize(("top_k", "normalize"), [(1, False), (2, False), (2, True), (4, True)])
def test_top_experts_and_their_weights(top_k, normalize):
    x, gate = array(2, 6, D), array(D, E, seed=1)
    routing, _ = route(TopK(E, top_k, normalize), x, gate)
    probs = softmax(x @ gate)
    for b, i in np.argwhere(SEGMENTS > 0):
        best = np.argsort(-probs[b, i])[:top_k]
        weights = probs[b, i, best] / (probs[b, i, best].sum() if normalize else 1.0)
        assert routing.experts_BLS[b, i].tolist() == best.tolist()
        np.testing.assert_allclose(routing.weights_BLS[b, i], weights, rtol=1e-5)


def test_padding_has_no_expert_and_no_weight():
    routing, _ = route(TopK(E, 2), array(2, 6, D), array(D, E, seed=1))
    assert np.all(routing.experts_BLS[0, 5] == E) and np.all(routing.weights_BLS[0, 5] == 0)
    np.testing.assert_array_equal(routing.real_BLS[..., 0], SEGMENTS > 0)


def test_losses_match_their_formulas_per_row():
    x, gate = array(2, 6, D), array(D, E, seed=1)
    _, losses = route(TopK(E, 2, load_balance_weight=0.3, z_weight=0.7), x, gate)
    for b in range(2):
        logits = (x[b] @ gate)[SEGMENTS[b] > 0]
        probs = softmax(logits)
        chosen = np.argsort(-probs, -1)[:, :2]
        share = np.bincount(chosen.reshape(-1), minlength=E) / chosen.size
        np.testing.assert_allclose(losses["load_balance"][b], 0.3 * E * np.sum(share * probs.mean(0)), rtol=1e-5)
        z = np.mean(np.log(np.exp(logits).sum(-1)) ** 2)
        np.testing.assert_allclose(losses["router_z"][b], 0.7 * z, rtol=1e-5)


def test_collapsed_routing_costs_e_times_balanced_routing():
    ones, gate = np.ones((1, E), int), 20 * np.eye(E, dtype=np.float32)
    balanced, collapsed = np.eye(E, dtype=np.float32)[None], np.eye(E, dtype=np.float32)[None, [0] * E]
    router = TopK(E, 1, normalize=False, load_balance_weight=0.01)
    assert route(router, balanced, gate, ones)[1]["load_balance"] == pytest.approx(0.01)
    assert route(router, collapsed, gate, ones)[1]["load_balance"] == pytest.approx(0.01 * E, rel=1e-4)


def test_padding_has_no_effect():
    x, gate = array(2, 6, D), array(D, E, seed=1)
    other = np.where(SEGMENTS[..., None] > 0, x, 100 * array(2, 6, D, seed=2))
    router = TopK(E, 2, z_weight=1.0)
    for one, two in zip(
        jax.tree.leaves(route(router, x, gate)), jax.tree.leaves(route(router, other, gate)), strict=True
    ):
        np.testing.assert_array_equal(one, two)


def test_a_row_of_padding_has_no_loss():
    _, losses = route(TopK(E, 2, z_weight=1.0), array(2, 6, D), array(D, E), np.array([[0] * 6, [1] * 6]))
    assert losses["load_balance"][0] == losses["router_z"][0] == 0


def test_more_choices_than_experts_are_refused():
    with pytest.raises(ValueError, match=r"top_k=5 is more than num_experts=4; lower top_k"):
        jax.eval_shape(TopK(E, 5).init, jax.random.key(0), array(2, 6, D), context(SEGMENTS))


def choices_of(factor, x, gate, segments=SEGMENTS):
    return ExpertChoice(E, factor).apply({"params": {"gate": {"kernel": gate}}}, x, context(segments))


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0, 99.0])
def test_every_expert_chooses_its_most_likely_tokens(factor):
    x, gate = array(2, 6, D), array(D, E, seed=1)
    choices = choices_of(factor, x, gate)
    capacity, probs = min(math.ceil(factor * 6 / E), 6), softmax(x @ gate)
    # Balanced by construction: every expert has the same number of tokens.
    assert choices.tokens_BEC.shape == choices.weights_BEC.shape == (2, E, capacity)
    assert choices.real_B.tolist() == [5, 6] and choices.num_experts == E
    for b, e in np.ndindex(2, E):
        tokens, weights = np.asarray(choices.tokens_BEC[b, e]), np.asarray(choices.weights_BEC[b, e])
        assert len(set(tokens.tolist())) == capacity
        best = [i for i in np.argsort(-probs[b, :, e]) if SEGMENTS[b, i] > 0][:capacity]
        assert tokens[: len(best)].tolist() == best
        np.testing.assert_allclose(weights[: len(best)], probs[b, best, e], rtol=1e-5)
        assert not weights[len(best) :].any()


def test_padding_is_chosen_last_and_with_no_weight():
    x, gate = array(2, 6, D), array(D, E, seed=1)
    segments = np.array([[1, 0, 0, 2, 0, 0], [0] * 6])
    choices = choices_of(2.0, x, gate, segments)  # 3 of 6 tokens, of which 2 are real and 0
    real = np.take_along_axis(segments[:, None] > 0, np.asarray(choices.tokens_BEC), 2)
    assert np.all(real[0] == [True, True, False]) and not real[1].any()
    np.testing.assert_array_equal(np.asarray(choices.weights_BEC) > 0, real)
    other = np.where(segments[..., None] > 0, x, 100 * array(2, 6, D, seed=2))
    np.testing.assert_array_equal(choices_of(2.0, other, gate, segments).weights_BEC, choices.weights_BEC)

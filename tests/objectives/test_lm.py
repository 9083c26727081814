"""The token objective against slow numpy, and its implementations against each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_like.objectives.lm import LanguageModel
from t5x_like.objectives.tokens import is_largest, token_logps
from tests import tiny


def mean_loss(objective, model, batch):
    def value(params):
        total, weight, _ = objective(model.apply, params, batch)
        return total / weight

    return jax.jit(jax.value_and_grad(value))


def test_token_logps_and_its_gradient_equal_log_softmax():
    logits = jax.random.normal(jax.random.key(0), (2, 3, 7)) * 5
    targets, mix = jnp.array([[1, 2, 6], [0, 0, 3]]), jax.random.normal(jax.random.key(1), (2, 2, 3))

    def ours(x):
        logp, lse = token_logps(x, targets)
        return jnp.sum(logp * mix[0] + lse * mix[1])

    def plain(x):
        logp = jnp.take_along_axis(jax.nn.log_softmax(x), targets[..., None], -1)[..., 0]
        return jnp.sum(logp * mix[0] + jax.nn.logsumexp(x, -1) * mix[1])

    np.testing.assert_allclose(ours(logits), plain(logits), rtol=1e-5)
    np.testing.assert_allclose(jax.grad(ours)(logits), jax.grad(plain)(logits), atol=1e-5)


def test_the_largest_logit_is_the_one_that_argmax_chooses():
    generator = np.random.default_rng(0)
    logits = generator.integers(0, 4, (20, 30, 8)).astype(np.float32)  # many are equal
    logits[0, :10] = -np.inf
    logits[1, :, 2] = np.nan
    targets = generator.integers(0, 8, (20, 30))
    expected = logits.argmax(-1) == targets
    expected[1] = False
    assert 50 < expected.sum() < 200
    np.testing.assert_array_equal(jax.jit(is_largest)(logits, targets), expected)


@pytest.mark.parametrize("smoothing, z", [(0.0, 0.0), (0.1, 0.0), (0.1, 1e-2)])
def test_the_objective_matches_its_formula_over_weighted_targets(smoothing, z):
    model, batch = tiny.decoder(), tiny.batch()
    params = tiny.init(model, batch)
    objective = LanguageModel(z_loss=z, label_smoothing=smoothing)
    total, weight, metrics = jax.jit(lambda p: objective(model.apply, p, batch))(params)
    logits = np.asarray(model.apply({"params": params}, batch), np.float64)
    norm = np.log(np.exp(logits).sum(-1))
    logps = logits - norm[..., None]
    target = np.take_along_axis(logps, batch["decoder_target_tokens"][..., None], -1)[..., 0]
    each = -(1 - smoothing) * target - smoothing * logps.mean(-1) + z * norm**2
    weights = batch["decoder_loss_weights"]
    np.testing.assert_allclose(total, (each * weights).sum(), rtol=1e-5)
    np.testing.assert_allclose(weight, weights.sum())
    np.testing.assert_allclose(metrics["loss"][0], (-target * weights).sum(), rtol=1e-5)
    hits = (logits.argmax(-1) == batch["decoder_target_tokens"]) * weights
    np.testing.assert_allclose(metrics["accuracy"][0], hits.sum())


@pytest.mark.parametrize("make, side", [(tiny.decoder, "decoder"), (tiny.encoder, "encoder")])
def test_logits_in_chunks_give_the_same_loss_and_gradients(make, side):
    model, batch = make(), tiny.batch(sides=(side,))
    params = tiny.init(model, batch)
    whole, whole_grads = mean_loss(LanguageModel(z_loss=1e-3, side=side), model, batch)(params)
    chunked, grads = mean_loss(LanguageModel(z_loss=1e-3, chunk=4, side=side), model, batch)(params)
    np.testing.assert_allclose(whole, chunked, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), whole_grads, grads)


def test_a_chunk_that_does_not_divide_the_length_is_refused():
    model, batch = tiny.decoder(), tiny.batch()
    with pytest.raises(ValueError, match="chunk=5 does not divide the length 12"):
        LanguageModel(chunk=5)(model.apply, tiny.init(model, batch), batch)


def test_targets_without_weight_have_no_effect():
    model, batch = tiny.decoder(), tiny.batch()
    params = tiny.init(model, batch)
    changed = dict(
        batch, decoder_target_tokens=np.where(batch["decoder_loss_weights"] > 0, batch["decoder_target_tokens"], 5)
    )
    first, grads = mean_loss(LanguageModel(), model, batch)(params)
    second, others = mean_loss(LanguageModel(), model, changed)(params)
    assert first == second
    jax.tree.map(np.testing.assert_array_equal, grads, others)


def test_uniform_logits_have_a_loss_of_log_vocabulary():
    model, batch = tiny.decoder(), tiny.batch()
    params = jax.tree.map(jnp.zeros_like, tiny.init(model, batch))
    total, weight, _ = LanguageModel()(model.apply, params, batch)
    np.testing.assert_allclose(total / weight, np.log(tiny.VOCAB), rtol=1e-6)


def test_router_losses_are_added_and_split_batches_sum_to_the_full_batch():
    model, batch = tiny.decoder(experts=True), tiny.batch()
    params = tiny.init(model, batch)
    run = jax.jit(lambda p, b: LanguageModel()(model.apply, p, b))
    total, weight, metrics = run(params, batch)
    assert float(total) > float(metrics["loss"][0])
    aux = sum(float(metrics[name][0]) for name in ("load_balance", "router_z"))
    np.testing.assert_allclose(total, metrics["loss"][0] + 2 * aux, rtol=1e-5)  # metrics are means over two layers
    halves = [run(params, {k: v[part] for k, v in batch.items()}) for part in (slice(0, 4), slice(4, 8))]
    np.testing.assert_allclose(total, sum(half[0] for half in halves), rtol=1e-5)
    np.testing.assert_allclose(weight, sum(half[1] for half in halves))

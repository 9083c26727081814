"""The label loss added to the masked-token loss: its formula, ln 2 at initialization, split batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_like.models import heads, linear
from t5x_like.objectives.lm import LanguageModel
from t5x_like.objectives.sentence_pairs import MaskedAndPaired
from tests import tiny

CLASSIFIER = linear.Dense((2,), ("embed", "router"), 1, True, heads.NORMAL)
MODEL = tiny.encoder().copy(pooler=heads.Pooler(), classifier=CLASSIFIER)


def labelled_batch():
    batch = tiny.batch(sides=("encoder",))
    return batch | {"encoder_labels": np.array([0, 1, 1, 0, 1, 0, 0, 1], np.int32)[:, None]}


def test_the_objective_adds_the_label_loss_to_the_masked_token_loss():
    batch = labelled_batch()
    params = tiny.init(MODEL, batch)
    total, weight, metrics = MaskedAndPaired(pair_weight=0.5)(MODEL.apply, params, batch)
    masked, _, _ = LanguageModel(side="encoder")(MODEL.apply, params, batch)
    logits = np.asarray(MODEL.apply({"params": params}, batch, method="classify"), np.float64)
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    each = -logp[np.arange(8), batch["encoder_labels"][:, 0]]
    rows = batch["encoder_loss_weights"].sum(axis=1)
    np.testing.assert_allclose(total, masked + 0.5 * (each * rows).sum(), rtol=1e-5)
    np.testing.assert_allclose(weight, rows.sum())
    np.testing.assert_allclose(metrics["pair_loss"][0] / metrics["pair_loss"][1], each.mean(), rtol=1e-5)


def test_the_label_loss_starts_at_ln_2_and_can_be_learned():
    batch = labelled_batch()
    params = tiny.init(MODEL, batch)
    objective = MaskedAndPaired()

    def loss(params):
        total, weight, metrics = objective(MODEL.apply, params, batch, jax.random.key(0))
        return total / weight, metrics

    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (_, metrics), grads = step(params)
    np.testing.assert_allclose(metrics["pair_loss"][0] / 8, np.log(2), atol=0.02)
    assert jnp.abs(grads["classifier"]["kernel"]).max() > 0
    for _ in range(80):
        (_, metrics), grads = step(params)
        params = jax.tree.map(lambda p, g: p - 0.2 * g, params, grads)
    assert metrics["pair_loss"][0] / 8 < 0.3


def test_split_batches_sum_to_the_full_batch():
    batch = labelled_batch()
    params = tiny.init(MODEL, batch)
    run = jax.jit(lambda b: MaskedAndPaired()(MODEL.apply, params, b))
    whole, parts = run(batch), [run({k: v[part] for k, v in batch.items()}) for part in (slice(0, 4), slice(4, 8))]
    jax.tree.map(lambda x, *y: np.testing.assert_allclose(x, sum(y), rtol=1e-5), whole, *parts)


def test_a_model_without_a_classifier_is_refused():
    model, batch = tiny.encoder(), labelled_batch()
    with pytest.raises(ValueError, match="EncoderOnly.pooler=None: pairs need both"):
        MaskedAndPaired()(model.apply, tiny.init(model, batch), batch)

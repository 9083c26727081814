"""ELECTRA: a shared table, labels that mark replaced tokens, no gradient through the sampling."""

import jax
import jax.numpy as jnp
import numpy as np

from t5x_like.models import electra, heads, linear
from t5x_like.objectives.electra import ReplacedTokenDetection, detect, replace_masked
from t5x_like.objectives.lm import LanguageModel
from tests import tiny

DISCRIMINATOR = tiny.encoder().copy(head=heads.Detector())
MODEL = electra.Electra(linear.Embed(tiny.VOCAB, tiny.WIDTH), tiny.encoder(repeats=1), DISCRIMINATOR)


def masked(seed=0):
    """Returns a batch where a third of the tokens are masked."""
    batch = tiny.batch(sides=("encoder",), seed=seed)
    masked_tokens = np.random.default_rng(seed).random(batch["encoder_loss_weights"].shape) < 0.3
    tokens = batch["encoder_target_tokens"]
    return batch | {
        "encoder_input_tokens": np.where(masked_tokens, 1, tokens),
        "encoder_loss_weights": batch["encoder_loss_weights"] * masked_tokens,
    }


BATCH = masked()
PARAMS = tiny.init(MODEL, BATCH)


def test_generator_and_discriminator_share_one_table():
    assert "embed" in PARAMS and "embed" not in PARAMS["generator"] and "embed" not in PARAMS["discriminator"]
    other_params = dict(PARAMS, embed=jax.tree.map(lambda x: x + jnp.arange(tiny.WIDTH), PARAMS["embed"]))
    for method in ("generator_logits", None):
        one, other = (MODEL.apply({"params": p}, BATCH, method=method) for p in (PARAMS, other_params))
        assert not np.allclose(one, other)


def test_the_discriminator_equals_its_encoder():
    params = {"embed": PARAMS["embed"], **PARAMS["discriminator"]}
    expected = DISCRIMINATOR.apply({"params": params}, BATCH)
    np.testing.assert_allclose(MODEL.apply({"params": PARAMS}, BATCH), expected, rtol=1e-6)


def test_labels_mark_samples_that_differ_from_the_original():
    logits = MODEL.apply({"params": PARAMS}, BATCH, method="generator_logits")
    replaced = np.asarray(replace_masked(logits, BATCH, jax.random.key(0)))
    masked_tokens, tokens = BATCH["encoder_loss_weights"] > 0, BATCH["encoder_target_tokens"]
    np.testing.assert_array_equal(replaced[~masked_tokens], tokens[~masked_tokens])
    _, weight, metrics = ReplacedTokenDetection()(MODEL.apply, PARAMS, BATCH)
    fakes = (replaced != tokens)[masked_tokens].sum()
    assert 0 < fakes == metrics["replaced"][0] and weight == masked_tokens.sum()
    # If the generator is certain of the original, no token is replaced.
    sure = 1e4 * jax.nn.one_hot(tokens, tiny.VOCAB)
    np.testing.assert_array_equal(replace_masked(sure, BATCH, jax.random.key(0)), tokens)


def test_samples_follow_the_distribution_of_the_generator():
    logits = jnp.tile(jnp.log(jnp.array([0.5, 0.3, 0.2])), (100, 100, 1))
    batch = {"encoder_loss_weights": jnp.ones((100, 100)), "encoder_target_tokens": jnp.zeros((100, 100), jnp.int32)}
    scores = np.bincount(np.asarray(replace_masked(logits, batch, jax.random.key(1))).reshape(-1)) / 1e4
    assert (abs(scores - [0.5, 0.3, 0.2]) < 4 * 0.005).all()


def test_the_objective_matches_its_formula():
    total, _, metrics = ReplacedTokenDetection()(MODEL.apply, PARAMS, BATCH)
    logits = MODEL.apply({"params": PARAMS}, BATCH, method="generator_logits")
    replaced = replace_masked(logits, BATCH, jax.random.key(0))
    scores, _ = detect(MODEL.apply, PARAMS, BATCH | {"encoder_input_tokens": replaced}, None)
    p = 1 / (1 + np.exp(-np.asarray(scores, np.float64)))
    fake, real = np.asarray(replaced) != BATCH["encoder_target_tokens"], BATCH["encoder_segment_ids"] > 0
    each = -np.where(fake, np.log(p), np.log(1 - p)) * real
    rows = BATCH["encoder_loss_weights"].sum(axis=1)
    generator = {"embed": PARAMS["embed"], **PARAMS["generator"]}
    plain, _, _ = LanguageModel(side="encoder")(tiny.encoder(repeats=1).apply, generator, BATCH)
    np.testing.assert_allclose(total, plain + 50 * (each.sum(1) / real.sum(1) * rows).sum(), rtol=1e-5)
    np.testing.assert_allclose(metrics["detector_loss"][0], each.sum(), rtol=1e-5)


def test_no_gradient_flows_through_the_sampling():
    def detection(params, weight):
        total, _, _ = ReplacedTokenDetection(weight=weight)(MODEL.apply, params, BATCH, jax.random.key(0))
        return total

    both, without = (jax.grad(detection)(PARAMS, weight) for weight in (50.0, 0.0))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), both["generator"], without["generator"])
    assert all(jnp.abs(x).max() == 0 for x in jax.tree.leaves(without["discriminator"]))
    assert jnp.abs(both["embed"]["table"] - without["embed"]["table"]).max() > 1e-3


def test_split_batches_sum_to_the_full_batch():
    # A generator certain of one token samples the same in every batch.
    params = jax.tree.map(lambda x: x, PARAMS)
    bias = params["generator"]["head"]["output"]["bias"]
    params["generator"]["head"]["output"]["bias"] = bias.at[7].set(1e4)
    run = jax.jit(lambda b: ReplacedTokenDetection()(MODEL.apply, params, b))
    parts = [run({k: v[part] for k, v in BATCH.items()}) for part in (slice(0, 4), slice(4, 8))]
    jax.tree.map(lambda x, *y: np.testing.assert_allclose(x, sum(y), rtol=1e-4), run(BATCH), *parts)

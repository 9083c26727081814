"""Contrastive decoding equals its definition, step by step, with both models' full forward passes."""

import functools

import jax
import numpy as np
import pytest

from t5x_like.decoding import beams, state
from t5x_like.decoding.contrastive import Contrast, contrast
from t5x_like.decoding.loop import generate
from t5x_like.decoding.sampling import Greedy
from tests import tiny
from tests.models import decoder_checks

ROWS, PROMPT, NEW = 3, 4, 5
LENGTHS = np.array([4, 1, 3])


def log_softmax(x):
    x = np.asarray(x, np.float64)
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def slow_contrast(expert_V, amateur_V, alpha, temperature):
    expert_V, amateur_V = log_softmax(expert_V), log_softmax(np.asarray(amateur_V) / temperature)
    plausible = np.exp(expert_V) >= alpha * np.exp(expert_V).max()
    return [e - a if p else -np.inf for e, a, p in zip(expert_V, amateur_V, plausible, strict=True)]


@pytest.mark.parametrize(("alpha", "temperature"), [(0.1, 1.0), (0.5, 0.5), (1.0, 1.0), (1e-6, 2.0)])
def test_the_contrast_is_that_of_plausible_tokens(alpha, temperature):
    expert_BV, amateur_BV = 2 * np.random.default_rng(0).normal(size=(2, 20, 11)).astype(np.float32)
    expected = [slow_contrast(e, a, alpha, temperature) for e, a in zip(expert_BV, amateur_BV, strict=True)]
    np.testing.assert_allclose(contrast(expert_BV, amateur_BV, alpha, temperature), expected, rtol=1e-4, atol=1e-5)
    assert np.isfinite(expected).sum() == 20 if alpha == 1 else np.isfinite(expected).sum() > 20


def models(make):
    """An expert, an amateur with fewer layers, a batch of ragged prompts, and parameters."""
    batch = decoder_checks.decoder_batch(PROMPT, rows=ROWS)
    batch["decoder_segment_ids"] = (np.arange(PROMPT) < LENGTHS[:, None]).astype(np.int32)
    model = Contrast(make(repeats=2), make(repeats=1), alpha=0.3, temperature=0.7)
    if model.encoder_decoder:
        batch |= {key.replace("decoder", "encoder"): x for key, x in decoder_checks.decoder_batch(5, rows=ROWS).items()}
    return model, {name: decoder_checks.random_params(part, batch) for name, part in model.models.items()}, batch


def slow_greedy(model, params, batch):
    """The ids [B, N]: both models read the whole texts at every step."""
    forwards = {name: jax.jit(part.apply) for name, part in model.models.items()}
    tokens_BL = np.pad(batch["decoder_input_tokens"], ((0, 0), (0, NEW)))
    index_L, rows_B = np.arange(PROMPT + NEW), np.arange(ROWS)
    for n in range(NEW):
        real_BL = index_L < LENGTHS[:, None] + n
        whole = batch | {"decoder_input_tokens": tokens_BL, "decoder_segment_ids": real_BL.astype(np.int32)}
        whole["decoder_positions"] = np.tile(index_L.astype(np.int32), (ROWS, 1))
        both = [forwards[name]({"params": params[name]}, whole)[rows_B, LENGTHS + n - 1] for name in model.models]
        scores = [slow_contrast(*row, model.alpha, model.temperature) for row in zip(*both, strict=True)]
        tokens_BL[rows_B, LENGTHS + n] = np.argmax(scores, axis=-1)
    return [row[length : length + NEW] for row, length in zip(tokens_BL, LENGTHS, strict=True)]


@pytest.mark.parametrize("make", [tiny.decoder, functools.partial(tiny.encoder_decoder, scan=True)])
def test_greedy_and_one_beam_choose_the_largest_contrast(make):
    model, params, batch = models(make)
    keys = jax.random.split(jax.random.key(0), ROWS)
    found = jax.jit(lambda p, b: generate(model, p, b, keys, Greedy(), NEW, ()))(params, batch)
    beam = jax.jit(lambda p, b: beams.search(model, p, b, beams.BeamSearch(1), NEW, ()))(params, batch)
    expected = slow_greedy(model, params, batch)
    np.testing.assert_array_equal(found.tokens_BN, expected)
    np.testing.assert_array_equal(beam.tokens_BKN[:, 0], expected)


def test_the_cache_is_that_of_two_models():
    model, params, batch = models(tiny.decoder)
    logits_BLV = jax.jit(model.apply)({"params": params}, batch)
    prefilled_BV, cache = jax.jit(lambda p, b: state.prefill(model, p, b, 8))(params, batch)
    np.testing.assert_allclose(prefilled_BV, np.asarray(logits_BLV)[np.arange(ROWS), LENGTHS - 1], atol=1e-4)
    step, token_B = jax.jit(functools.partial(state.decode_step, model)), np.array([5, 6, 7], np.int32)
    once_BV, longer = step(params, cache, token_B)
    again_BV, _ = step(params, state.rollback(longer, LENGTHS), token_B)
    np.testing.assert_allclose(again_BV, once_BV, atol=1e-5)


def test_what_cannot_be_contrasted_is_refused():
    small = tiny.decoder(repeats=1)
    with pytest.raises(ValueError, match="vocab_size=64, the amateur 7"):
        Contrast(small, small.clone(embed=small.embed.clone(vocab_size=7)))
    with pytest.raises(ValueError, match="encoder_decoder=False"):
        Contrast(small, tiny.encoder_decoder())
    for bad in ({"alpha": 0.0}, {"alpha": 1.5}, {"temperature": 0.0}, {"temperature": float("inf")}):
        with pytest.raises(ValueError, match=r"Contrast\.(alpha|temperature)="):
            Contrast(small, small, **bad)

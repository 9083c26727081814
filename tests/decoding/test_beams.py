"""Beam search finds the sequences of `transformers` and of an exhaustive search, and one row does not depend on the others."""

import dataclasses
import functools
import itertools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_like import hf
from t5x_like.decoding import beams
from t5x_like.decoding.beams import BeamSearch, Gnmt, Power
from t5x_like.decoding.loop import generate
from t5x_like.decoding.processors import ForcedLastToken, ForcedTokens, MinNewTokens, NoRepeatNGram
from t5x_like.decoding.sampling import Greedy
from tests import tiny
from tests.hf import folders
from tests.models import decoder_checks

EXPECTED, EXPECTED_GROUPS = (
    json.loads((Path(__file__).parent / name).read_text()) for name in ("beams.json", "beam_groups.json")
)
NEW = 8  # as in make_beams.py
STOPS = {False: beams.WhenWorse(), True: beams.WhenFull(), "never": beams.WhenHopeless()}


def search(model, params, batch, setting, new, stops):
    options = {"beam_search": setting, "max_new_tokens": new, "stop_ids": stops}
    find = jax.jit(functools.partial(beams.search, model, **options))
    return jax.device_get(find(params, batch))


def by_settings(searches):
    """(settings of transformers but the length penalty, the searches with them)."""
    result = {}
    for one in searches:
        settings = {key: x for key, x in one.items() if key not in ("row", "tokens", "scores", "length_penalty")}
        result.setdefault(json.dumps(settings), (settings, []))[1].append(one)
    return result.values()


def ours(settings):
    """(beam search, processors) of settings of transformers."""
    names = {"num_beams": "beams", "num_beam_groups": "groups", "diversity_penalty": "diversity"}
    fields = {ours: settings[theirs] for theirs, ours in names.items() if theirs in settings}
    processors = {
        "no_repeat_ngram_size": NoRepeatNGram,
        "min_new_tokens": MinNewTokens,
        "min_length": lambda least: MinNewTokens(least - 1),  # the start token counts
        "forced_bos_token_id": lambda id: ForcedTokens([id]),
        "forced_eos_token_id": lambda id: ForcedLastToken(id, NEW),
    }
    return (
        BeamSearch(stop=STOPS[settings["early_stopping"]], **fields),
        tuple(make(settings[name]) for name, make in processors.items() if name in settings),
    )


@pytest.mark.parametrize("expected", [EXPECTED, EXPECTED_GROUPS], ids=["beams", "groups"])
@pytest.mark.parametrize("name", EXPECTED)
def test_sequences_and_scores_are_those_of_transformers(name, expected):
    if name not in expected:
        pytest.skip("has no fixture of groups")
    model, params = hf.load(folders.FIXTURES / name)
    reference, wanted = folders.expected(name), expected[name]
    prompts = {key: reference[key] for key in ("tokens", "mask")}
    if model.encoder_decoder:
        prompts["decoder_tokens"] = np.full((len(prompts["tokens"]), 1), reference["decoder_tokens"][0, 0])
    batch = folders.batch(prompts, ("encoder", "decoder") if model.encoder_decoder else ("decoder",))
    for settings, rows in by_settings(wanted["searches"]):
        beam_search, processors = ours(settings)

        @jax.jit
        def find(params, batch, exponent, setting=beam_search, processors=processors):
            setting = dataclasses.replace(setting, penalty=Power(exponent))
            return beams.search(model, params, batch, setting, NEW, tuple(wanted["stops"]), processors)

        for one in rows:
            row, exponent = one["row"], one["length_penalty"]
            found = jax.device_get(find(params, batch, exponent))
            np.testing.assert_allclose(found.scores_BK[row], one["scores"], atol=2e-4)
            for beam, tokens in enumerate(one["tokens"]):
                ids = found.tokens_BKN[row, beam, : found.lengths_BK[row, beam]].tolist()
                assert ids == tokens
                total = found.log_probs_BKN[row, beam].sum()
                np.testing.assert_allclose(total / len(ids) ** exponent, one["scores"][beam], atol=2e-4)


def every_continuation(model, params, prompt, new, stop):
    """{continuation: log-probability} of all continuations that end with `stop` or after `new` tokens."""
    vocabulary = model.vocab_size
    forward = jax.jit(lambda batch: jax.nn.log_softmax(model.apply({"params": params}, batch)))
    whole = np.array(list(itertools.product(range(vocabulary), repeat=new)), np.int32)
    tokens = np.concatenate([np.tile(prompt, (len(whole), 1)), whole], 1).astype(np.int32)
    batch = decoder_checks.decoder_batch(tokens.shape[1], len(tokens)) | {"decoder_input_tokens": tokens}
    logps = np.asarray(forward(batch))[:, len(prompt) - 1 : -1]
    logps = np.take_along_axis(logps, whole[..., None], 2)[..., 0]
    result = {}
    for ids, values in zip(whole.tolist(), logps, strict=True):
        length = ids.index(stop) + 1 if stop in ids else new
        result[tuple(ids[:length])] = float(values[:length].sum())
    return result


@pytest.mark.parametrize("penalty", [Power(0.0), Power(1.0), Gnmt(0.6)])
def test_wide_beams_find_what_an_exhaustive_search_finds(penalty):
    vocabulary, new, stop = 5, 3, 2
    model = tiny.decoder(repeats=1)
    model = model.clone(embed=model.embed.clone(vocab_size=vocabulary))
    params = tiny.init(model, decoder_checks.decoder_batch(4) | {"decoder_input_tokens": np.ones((1, 4), np.int32)})
    prompt = [3, 1]
    scores = {
        ids: total / float(penalty(len(ids)))
        for ids, total in every_continuation(model, params, prompt, new, stop).items()
    }
    best = sorted(scores, key=scores.get, reverse=True)
    count = vocabulary**new
    batch = decoder_checks.decoder_batch(2) | {"decoder_input_tokens": np.array([prompt], np.int32)}
    found = search(model, params, batch, BeamSearch(count, penalty, beams.WhenHopeless()), new, (stop,))
    assert found.lengths_BK[0].tolist() == [len(ids) for ids in best] + [0] * (count - len(best))
    for beam, ids in enumerate(best):
        assert tuple(found.tokens_BKN[0, beam, : len(ids)]) == ids
        assert found.scores_BK[0, beam] == pytest.approx(scores[ids], abs=1e-4)
    assert np.all(found.scores_BK[0, len(best) :] == -np.inf)


@pytest.mark.parametrize("make", [tiny.decoder, functools.partial(tiny.encoder_decoder, scan=True)])
def test_a_row_does_not_depend_on_the_others_and_one_beam_is_greedy(make):
    model, lengths = make(), np.array([4, 1, 3])
    batch = decoder_checks.decoder_batch(4, rows=3)
    batch["decoder_segment_ids"] = (np.arange(4) < lengths[:, None]).astype(np.int32)
    if model.encoder_decoder:
        batch |= {key.replace("decoder", "encoder"): x for key, x in decoder_checks.decoder_batch(5, rows=3).items()}
    params = decoder_checks.random_params(model, batch)
    setting, stops = BeamSearch(3, Gnmt(0.6), beams.WhenHopeless()), (7, 9, 11, 20)
    all_rows = search(model, params, batch, setting, 5, stops)
    for row in range(3):
        alone = search(model, params, {key: x[row : row + 1] for key, x in batch.items()}, setting, 5, stops)
        np.testing.assert_array_equal(alone.tokens_BKN[0], all_rows.tokens_BKN[row])
        np.testing.assert_allclose(alone.scores_BK[0], all_rows.scores_BK[row], atol=1e-4)
    keys = jax.random.split(jax.random.key(0), 3)
    greedy = jax.jit(lambda p, b: generate(model, p, b, keys, Greedy(), 5, stops))(params, batch)
    one = search(model, params, batch, BeamSearch(1), 5, stops)
    np.testing.assert_array_equal(one.tokens_BKN[:, 0], greedy.tokens_BN)
    np.testing.assert_allclose(one.log_probs_BKN[:, 0], greedy.log_probs_BN, atol=1e-5)


def test_penalties():
    np.testing.assert_allclose(Gnmt(0.6)(7), 2.0**0.6, rtol=1e-6)
    np.testing.assert_allclose(Power(2.0)(jnp.arange(1, 4)), [1, 4, 9])


BAD = [
    *({"beams": 0}, {"beams": 2.5}, {"beams": 2, "returned": 3}, {"returned": 0}),
    *({"groups": 3, "diversity": 1.0}, {"groups": 0}, {"groups": 2}, {"diversity": 0.5}),
    *({"groups": 2, "diversity": -1.0}, {"groups": 2, "diversity": float("inf")}),
]


@pytest.mark.parametrize("bad", BAD)
def test_bad_numbers_are_refused(bad):
    with pytest.raises(ValueError, match=r"BeamSearch\.(beams|returned|groups|diversity)="):
        BeamSearch(**bad)

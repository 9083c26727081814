"""Processors against `transformers` (see make_fixtures.py) and against slow NumPy."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_like import hf
from t5x_like.decoding import sampling
from t5x_like.decoding.loop import generate
from t5x_like.decoding.processors import (
    BadWords,
    ForcedTokens,
    FrequencyPenalty,
    History,
    LogitBias,
    MinNewTokens,
    NoRepeatNGram,
    PresencePenalty,
    RepetitionPenalty,
    from_prompts,
)
from tests.hf import folders

FIXTURES = Path(__file__).parent / "fixtures"
PROCESSORS = {
    "repetition": RepetitionPenalty(1.7),
    "no_repeat_1": NoRepeatNGram(1),
    "no_repeat_2": NoRepeatNGram(2),
    "no_repeat_3": NoRepeatNGram(3),
    "bad_words": BadWords([[5], [2, 6], [3, 6], [2, 2, 7], [2, 3, 2, 8]]),
    "min_new": MinNewTokens(4),
    "bias": LogitBias({3: -2.5, 7: 1.25, 0: -np.inf}),
}
OURS_ALONE = {
    "frequency": FrequencyPenalty(0.75),
    "presence": PresencePenalty(0.75),
    "forced": ForcedTokens([9, 8, 7]),
    "no_repeat_20": NoRepeatNGram(20),
}


@pytest.fixture(scope="module")
def reference():
    with np.load(FIXTURES / "processors.npz") as arrays:
        return dict(arrays)


def history_of(reference, rows=slice(None), length=None):
    tokens = jnp.asarray(reference["tokens"], jnp.int32)[rows, :length]
    counts = [jnp.asarray(reference[name], jnp.int32)[rows] for name in ("length", "generated")]
    return History(tokens, *counts, stop_ids=(1, 4))


@pytest.mark.parametrize("name", PROCESSORS)
def test_a_processor_equals_that_of_transformers(name, reference):
    ours = jax.jit(PROCESSORS[name])(reference["logits"], history_of(reference))
    np.testing.assert_allclose(ours, reference[name], rtol=1e-6)


@pytest.mark.parametrize("name, stop", [("gpt2", 25), ("t5", 53)])
def test_generation_with_processors_equals_that_of_transformers(name, stop):
    with np.load(FIXTURES / "generated.npz") as arrays:
        expected = arrays[name]
    model, params = hf.load(folders.FIXTURES / name, dtype=np.float32)
    reference = folders.expected(name)
    batch = folders.batch(reference, model.sides)
    if model.encoder_decoder:
        batch |= folders.side("decoder", reference["decoder_tokens"][:, :1], np.ones((3, 1)))
    bad = BadWords([[11], [36, 41], [40, 44, 42]])
    processors = [RepetitionPenalty(1.3), NoRepeatNGram(2), bad, MinNewTokens(5)]
    keys, count = np.zeros((3, 2), np.uint32), expected.shape[1]
    run = jax.jit(lambda p, b: generate(model, p, b, keys, sampling.Greedy(), count, (stop,), processors))
    np.testing.assert_array_equal(run(params, batch).tokens_BN, expected)


def test_the_forced_first_token_equals_that_of_transformers(reference):
    ours = ForcedTokens([9])(reference["logits"], history_of(reference))
    np.testing.assert_array_equal(ours[0], reference["forced"][0])  # the row of one token, which transformers requires


@pytest.mark.parametrize(
    "name, function, value",
    [
        ("top_k", sampling.top_k, 4),
        ("top_p", sampling.top_p, 0.8),
        ("min_p", sampling.min_p, 0.15),
        ("typical", sampling.typical_p, 0.6),
        ("eta", sampling.eta, 0.1),
    ],
)
def test_restrictions_equal_those_of_transformers(name, function, value, reference):
    np.testing.assert_array_equal(function(jnp.asarray(reference["logits"]), value), reference[name])


def test_temperatures_equal_those_of_transformers(reference):
    ours = jax.nn.log_softmax(sampling.divide_by_temperature(jnp.asarray(reference["logits"]), 0.7))
    np.testing.assert_allclose(ours, jax.nn.log_softmax(reference["temperature"]), rtol=1e-5)


def test_penalties_count_generated_tokens_alone(reference):
    frequency, presence = [
        processor(reference["logits"], history_of(reference)) for processor in list(OURS_ALONE.values())[:2]
    ]
    for row, logits in enumerate(reference["logits"]):
        end = reference["length"][row]
        generated = reference["tokens"][row, end - reference["generated"][row] : end]
        counts = np.array([(generated == token).sum() for token in range(len(logits))])
        np.testing.assert_allclose(frequency[row], logits - 0.75 * counts, rtol=1e-6)
        np.testing.assert_allclose(presence[row], logits - 0.75 * (counts > 0), rtol=1e-6)


def test_forced_tokens_are_the_only_possible_ones_until_all_are_generated(reference):
    processed = np.asarray(OURS_ALONE["forced"](reference["logits"], history_of(reference)))
    for row, generated in enumerate(reference["generated"]):
        if generated < 3:
            assert np.flatnonzero(np.isfinite(processed[row])).tolist() == [[9, 8, 7][generated]]
        else:
            np.testing.assert_array_equal(processed[row], reference["logits"][row])


@pytest.mark.parametrize("name", PROCESSORS | OURS_ALONE)
def test_a_row_depends_neither_on_others_nor_on_padding(name, reference):
    processor = (PROCESSORS | OURS_ALONE)[name]
    together = processor(reference["logits"], history_of(reference))
    for row in (0, 4, 5):
        rows = slice(row, row + 1)
        alone = processor(reference["logits"][rows], history_of(reference, rows, reference["length"][row]))
        np.testing.assert_array_equal(alone[0], together[row])
    padded = {"tokens": np.pad(reference["tokens"], ((0, 0), (0, 9)), constant_values=5)}
    np.testing.assert_array_equal(processor(reference["logits"], history_of(reference | padded)), together)


def test_the_history_appends_behind_each_row_and_leaves_ended_rows():
    batch = {
        "decoder_input_tokens": jnp.array([[5, 6, 7], [8, 99, 99]]),
        "decoder_segment_ids": jnp.array([[1, 1, 1], [1, 0, 0]]),
    }
    history = from_prompts(batch, 2, (1,))
    for tokens, ended in (([2, 3], [False, False]), ([4, 9], [True, False])):
        history = jax.jit(History.append)(history, jnp.array(tokens), jnp.array(ended))
    assert history.tokens_BT.tolist() == [[5, 6, 7, 2, 0], [8, 3, 9, 0, 0]]
    assert history.length_B.tolist() == [4, 3] and history.generated_B.tolist() == [1, 2]


@pytest.mark.parametrize(
    "build, message",
    [
        (
            lambda: RepetitionPenalty(0.0),
            r"RepetitionPenalty.penalty=0.0 must be positive and finite; 1 changes nothing",
        ),
        (lambda: RepetitionPenalty(float("nan")), "RepetitionPenalty.penalty=nan"),
        (lambda: FrequencyPenalty(float("-inf")), "FrequencyPenalty.penalty=-inf must be finite"),
        (lambda: PresencePenalty(float("inf")), "PresencePenalty.penalty=inf must be finite"),
        (lambda: NoRepeatNGram(0), "NoRepeatNGram.size=0 must be at least 1"),
        (lambda: BadWords([]), r"BadWords.words=\[\] has an empty word or none"),
        (lambda: BadWords([[3], []]), "has an empty word or none"),
        (lambda: BadWords([[3, -1]]), r"BadWords.words has the ids \[-1\]; they must be in 0 or more"),
        (lambda: ForcedTokens(()), r"ForcedTokens.ids=\(\) is empty"),
        (lambda: MinNewTokens(-1), "MinNewTokens.count=-1 must be 0 or more"),
        (lambda: LogitBias({3: float("nan"), 4: 1.0}), r"LogitBias.bias=\{3: nan\} must be numbers below infinity"),
    ],
)
def test_bad_values_raise(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    "processor, name",
    [
        (BadWords([[3, 11]]), "BadWords.words"),
        (ForcedTokens([11]), "ForcedTokens.ids"),
        (LogitBias({11: 1.0}), "LogitBias.bias"),
    ],
)
def test_ids_outside_the_vocabulary_raise_when_traced(processor, name, reference):
    with pytest.raises(ValueError, match=rf"{name} has the ids \[11\]; they must be in 0 .. 10, the ids of the vocab"):
        jax.eval_shape(processor, reference["logits"], history_of(reference))

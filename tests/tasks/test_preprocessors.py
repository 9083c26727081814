"""Objectives as seqio preprocessors make the rows of token caches; a live cache equals one of the first documents."""

import functools

import numpy as np
import pytest

from t5x_like.data import rows
from t5x_like.data.cache.memory import MemoryCache
from t5x_like.data.rows import bart, fim, pairs, permutation, ul2
from t5x_like.data.tokenizers.vocabularies import ByteVocabulary
from tests.tiny_cache import documents

TEXTS = documents(30, 7)
MAKES = {
    "causal_lm": functools.partial(rows.CausalLM, length=32),
    "prefix_lm": functools.partial(rows.PrefixLM, length=32),
    "span_corruption": functools.partial(rows.SpanCorruption, inputs_length=48, targets_length=24),
    "ul2": functools.partial(ul2.MixtureOfDenoisers, inputs_length=48, targets_length=40),
    "bart": functools.partial(bart.Denoising, length=48),
    "masked_lm": functools.partial(rows.MaskedLM, length=32),
    "whole_word_masked_lm": functools.partial(rows.WholeWordMaskedLM, length=32),
    "next_sentence": functools.partial(pairs.NextSentence, length=32),
    "sentence_order": functools.partial(pairs.SentenceOrder, length=32),
    "permutation_lm": functools.partial(permutation.PermutationLM, length=32),
    "fill_in_the_middle": functools.partial(fim.FillInTheMiddle, length=32),
}


@pytest.fixture(scope="module")
def register():
    """Returns a function that registers a task of TEXTS with steps after the cache placeholder, and returns its name."""
    import seqio
    import tensorflow as tf

    from t5x_like.tasks import preprocessors, vocabularies

    def source(split, shuffle_files, seed=None):
        return tf.data.Dataset.from_tensor_slices({"targets": TEXTS})

    def add(name, *steps):
        seqio.TaskRegistry.add(
            name,
            source=seqio.FunctionDataSource(source, splits=("train",)),
            preprocessors=[
                seqio.preprocessors.tokenize,
                seqio.preprocessors.append_eos,
                seqio.CacheDatasetPlaceholder(),
                *(preprocessors.objective(*step) for step in steps),
            ],
            output_features={"targets": seqio.Feature(vocabularies.BYTES, add_eos=True)},
            metric_fns=[],
        )
        return name

    return add


def read_rows(name) -> dict[str, np.ndarray]:
    """Returns all rows of a task, read through seqio."""
    import seqio

    dataset = seqio.TaskRegistry.get(name).get_dataset(None, "train", shuffle=False, trim_output_features=False)
    examples = list(dataset.as_numpy_iterator())
    return {feature: np.stack([x[feature] for x in examples]) for feature in examples[0]}


def expected_rows(make, texts, window: int, seed: int) -> dict[str, np.ndarray]:
    """Returns all rows of a cache of texts in its epoch `window`."""
    vocabulary = ByteVocabulary()
    cache = MemoryCache("x", "train", vocabulary, {"targets": [np.array([*vocabulary.encode(t), 1]) for t in texts]})
    all_rows = make(cache)
    return all_rows.fetch(np.arange(len(all_rows)), np.full(len(all_rows), window), seed)


@pytest.mark.parametrize("name", MAKES)
def test_one_window_is_the_first_epoch_of_a_cache(register, name):
    got = read_rows(register(f"whole_{name}", (MAKES[name], 1000, 3)))
    want = expected_rows(MAKES[name], TEXTS, 0, 3)
    assert got.keys() == want.keys() | {"targets"}
    for feature, x in want.items():
        np.testing.assert_array_equal(got[feature], x)


def test_windows_follow_each_other_with_different_noise(register):
    make = MAKES["span_corruption"]
    got = read_rows(register("windows", (make, 10, 3)))
    want = [expected_rows(make, TEXTS[10 * n : 10 * n + 10], n, 3) for n in range(3)]
    for feature in want[0]:
        np.testing.assert_array_equal(got[feature], np.concatenate([x[feature] for x in want]))


def test_a_window_without_a_row_is_refused(register):
    with pytest.raises(ValueError, match="window=1 documents make no row"):
        read_rows(register("short", (functools.partial(rows.CausalLM, length=4096), 1)))


def test_a_live_cache_holds_the_first_documents(register, tmp_path):
    from t5x_like.data.cache.token_cache import TokenCache
    from t5x_like.tasks.caching import live

    name = register("looked_at")
    of = functools.partial(TokenCache, split="train", module="t5x_like.tasks.pretraining", root=str(tmp_path))
    cache = live.read_task(of, name, documents=10)
    want = expected_rows(MAKES["causal_lm"], TEXTS[:10], 0, 0)
    live_rows = MAKES["causal_lm"](cache)
    got = live_rows.fetch(np.arange(len(live_rows)), np.zeros(len(live_rows), int), 0)
    np.testing.assert_array_equal(got["decoder_target_tokens"], want["decoder_target_tokens"])
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="has no split 'test'"):
        live.read_task(functools.partial(of, split="test"), name)

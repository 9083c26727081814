"""Rows against their documents: nothing is lost, invented, or visible across a boundary."""

import collections

import numpy as np
import pytest

from t5x_like.data import rows
from t5x_like.data.cache.memory import MemoryCache
from t5x_like.data.cache.token_cache import TokenCache
from t5x_like.data.noise import base as noise
from t5x_like.data.tokenizers import vocabularies


@pytest.fixture(scope="module")
def cache(tiny_root):
    return TokenCache("tiny", "train", root=str(tiny_root))


@pytest.fixture(scope="module")
def pairs(tiny_root):
    return TokenCache("pairs", "train", root=str(tiny_root))


def everything(rows_, epoch=0, seed=0):
    return rows_.fetch(np.arange(len(rows_)), np.full(len(rows_), epoch), seed)


def test_causal_rows_are_the_documents_joined(cache):
    batch = everything(rows.CausalLM(cache, 16))
    targets = batch["decoder_target_tokens"].reshape(-1)
    flat = np.asarray(cache.tokens("targets"))
    np.testing.assert_array_equal(targets, flat[: len(targets)])
    assert rows.CausalLM(cache, 16).unused_tokens == len(flat) - len(targets) < 16
    assert (batch["decoder_loss_weights"] == 1).all()


def test_causal_inputs_positions_and_segments_against_a_slow_loop(cache):
    length = 16
    batch = everything(rows.CausalLM(cache, length))
    starts = set(cache.offsets("targets").tolist())
    flat = np.asarray(cache.tokens("targets"))
    for row in range(len(batch["decoder_input_tokens"])):
        segment, position = 1, 0
        for column in range(length):
            place = row * length + column
            begins = place in starts
            if begins and column > 0:
                segment, position = segment + 1, 0
            expected = (0 if begins else flat[place - 1], segment, position)
            names = ("decoder_input_tokens", "decoder_segment_ids", "decoder_positions")
            assert tuple(batch[name][row, column] for name in names) == expected, (row, column)
            position += 1


def test_a_prefix_begins_its_segment_and_has_no_loss(cache):
    batch = everything(rows.PrefixLM(cache, 64))
    segments, prefix = batch["decoder_segment_ids"], batch["decoder_prefix"]
    weights, positions = batch["decoder_loss_weights"], batch["decoder_positions"]
    for row in range(len(segments)):
        for segment in set(segments[row]):
            here = segments[row] == segment
            in_prefix = prefix[row][here]
            size = in_prefix.sum()
            assert 1 <= size <= here.sum() and (in_prefix[:size] == 1).all()
            # Target i is input i + 1: it has a loss if that input is not in the prefix.
            np.testing.assert_array_equal(weights[row][here], positions[row][here] + 1 >= size)


def test_prefixes_differ_by_epoch(cache):
    rows_ = rows.PrefixLM(cache, 64)
    assert not np.array_equal(everything(rows_, 0)["decoder_prefix"], everything(rows_, 1)["decoder_prefix"])
    np.testing.assert_array_equal(everything(rows_, 1)["decoder_prefix"], everything(rows_, 1)["decoder_prefix"])


def restore(inputs, targets, vocabulary):
    """The original text of a span-corrupted pair."""
    lowest = vocabulary.vocab_size - vocabulary.extra_ids
    spans = collections.defaultdict(list)
    for token in targets[:-1]:
        if token >= lowest:
            sentinel = token
        else:
            spans[sentinel].append(token)
    return [t for token in inputs[:-1] for t in (spans[token] if token >= lowest else [token])]


def test_the_text_can_be_restored_from_span_corruption_and_rows_are_full(cache):
    rows_ = rows.SpanCorruption(cache, 64, 24)
    batch = everything(rows_)
    flat = np.asarray(cache.tokens("targets"))
    text = flat[: len(rows_) * rows_.text_length].reshape(len(rows_), -1)
    for row in range(len(rows_)):
        inputs = batch["encoder_input_tokens"][row][batch["encoder_segment_ids"][row] > 0]
        targets = batch["decoder_target_tokens"][row][batch["decoder_segment_ids"][row] > 0]
        assert inputs[-1] == targets[-1] == vocabularies.EOS
        assert restore(inputs, targets, rows_.vocabulary) == text[row].tolist()
    real = np.mean(batch["encoder_segment_ids"] > 0)
    assert real > 0.9
    np.testing.assert_array_equal(
        batch["decoder_input_tokens"][:, 1:],
        batch["decoder_target_tokens"][:, :-1] * (batch["decoder_segment_ids"][:, 1:] > 0),
    )


def test_byt5s_noise_has_the_sentinels_of_its_pretraining(cache):
    vocabulary = vocabularies.ByteVocabulary(sentinel=vocabularies.BYT5_SENTINEL)
    ids = [cache.tokens("targets")]
    batch = everything(rows.SpanCorruption(MemoryCache("byt5", "train", vocabulary, {"targets": ids}), 64, 24))
    for row, targets in zip(batch["encoder_input_tokens"], batch["decoder_target_tokens"], strict=True):
        spans = len(row[row > 250])
        assert spans > 1 and row[row > 250].tolist() == list(range(258, 258 - spans, -1)) and targets[0] == 258


def test_t5s_lengths():
    assert noise.text_length(512, 114, 0.15, 3.0) == 568  # Raffel et al. 2020 as published: 568 raw tokens, 512 and 114
    assert noise.corrupted_lengths(568, 0.15, 3.0) == (512, 114)


def test_all_splits_into_spans_are_equally_likely():
    bits = noise.random_bits(0, np.zeros(60_000, int), np.arange(60_000), 4, 0)
    splits = collections.Counter(map(tuple, noise.draw_span_lengths(bits, 5, 3).tolist()))
    assert len(splits) == 6 and all(abs(count - 10_000) < 500 for count in splits.values())


def test_masking_rates_and_unmasked_tokens(cache):
    rows_ = rows.MaskedLM(cache, 32)
    batches = [everything(rows_, epoch) for epoch in range(12)]
    batch = {name: np.concatenate([b[name] for b in batches]) for name in batches[0]}
    inputs, targets, chosen = (
        batch["encoder_input_tokens"],
        batch["encoder_target_tokens"],
        batch["encoder_loss_weights"] > 0,
    )
    text = targets > vocabularies.UNK
    assert not (chosen & ~text).any()
    np.testing.assert_array_equal(inputs[~chosen], targets[~chosen])
    n = text.sum()
    assert abs(chosen.sum() / n - 0.15) < 4 * np.sqrt(0.15 * 0.85 / n)
    masked = (inputs == vocabularies.mask_id(rows_.vocabulary)) & chosen
    kept = (inputs == targets) & chosen
    error = 4 * np.sqrt(0.16 / chosen.sum())
    assert abs(masked.sum() / chosen.sum() - 0.8) < error
    assert abs(kept.sum() / chosen.sum() - 0.1) < error + 0.1 / 256
    assert inputs[chosen & ~masked].min() > vocabularies.UNK
    assert not np.array_equal(batches[0]["encoder_loss_weights"], batches[1]["encoder_loss_weights"])


def test_packed_rows_hold_every_example_once(pairs):
    rows_ = rows.PackedExamples(pairs, 48, 40)
    batch = everything(rows_)
    packed = collections.Counter()
    for row in range(len(rows_)):
        for segment in range(1, batch["decoder_segment_ids"][row].max() + 1):
            source, target = (batch[f"{side}_segment_ids"][row] == segment for side in ("encoder", "decoder"))
            pair = (
                tuple(batch["encoder_input_tokens"][row][source]),
                tuple(batch["decoder_target_tokens"][row][target]),
            )
            packed[pair] += 1
            np.testing.assert_array_equal(batch["decoder_positions"][row][target], np.arange(target.sum()))
            inputs = batch["decoder_input_tokens"][row][target]
            assert inputs[0] == 0 and tuple(inputs[1:]) == pair[1][:-1]
    expected, cut = collections.Counter(), {"inputs": 0, "targets": 0}
    for i in range(pairs.manifest["documents"]):
        pair = []
        for feature, length in (("inputs", 48), ("targets", 40)):
            a, b = pairs.offsets(feature)[i : i + 2]
            pair.append(tuple(pairs.tokens(feature)[a : min(b, a + length)].astype(int)))
            cut[feature] += max(0, b - a - length)
        expected[tuple(pair)] += 1
    assert packed == expected
    assert rows_.truncated_tokens == cut and cut["targets"] > 0
    assert len(rows_) < pairs.manifest["documents"]


def test_tasks_without_inputs_make_decoder_only_rows(cache):
    rows_ = rows.PackedExamples(cache, 8, 400)
    assert rows_.lengths == {"decoder": 400}
    assert "encoder_input_tokens" not in everything(rows_)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda cache: rows.CausalLM(cache, 1), "length=1 is too short"),
        (lambda cache: rows.SpanCorruption(cache, 32, 2), "leave no room for a corrupted text"),
        (lambda cache: rows.SpanCorruption(cache, 32, 16, 1.5), "noise_density=1.5"),
        (lambda cache: rows.SpanCorruption(cache, 32, 16, 0.15, 0.5), "mean_span_length=0.5"),
        (lambda cache: rows.MaskedLM(cache, 16, 0.0), "mask_rate=0.0"),
    ],
)
def test_bad_sizes_are_refused(cache, make, message):
    with pytest.raises(ValueError, match=message):
        len(make(cache))


def test_masking_without_a_sentinel_is_refused():
    with pytest.raises(ValueError, match="extra_ids=0; masking needs"):
        vocabularies.mask_id(vocabularies.ByteVocabulary(extra_ids=0))


def test_the_fingerprint_depends_on_data_and_parameters(cache, tiny_root):
    base = rows.CausalLM(cache, 16).fingerprint
    assert base == rows.CausalLM(TokenCache("tiny", "train", root=str(tiny_root)), 16).fingerprint
    others = (
        rows.CausalLM(cache, 17),
        rows.PrefixLM(cache, 16),
        rows.CausalLM(TokenCache("tiny", "validation", root=str(tiny_root)), 16),
    )
    assert base not in {other.fingerprint for other in others}

"""UL2's denoisers against the paper: texts can be restored, and denoisers have the right rates, counts and spans."""

import collections
import re

import numpy as np
import pytest

from t5x_like.data.cache.memory import MemoryCache
from t5x_like.data.cache.token_cache import TokenCache
from t5x_like.data.noise import base as noise
from t5x_like.data.noise import ul2
from t5x_like.data.noise.ul2 import Denoiser
from t5x_like.data.rows import ul2 as rows_ul2
from t5x_like.data.tokenizers import vocabularies


@pytest.fixture(scope="module")
def cache(tiny_root):
    return TokenCache("tiny", "train", root=str(tiny_root))


def byt5(cache):
    """The documents of a cache with ByT5's vocabulary."""
    vocabulary = vocabularies.ByteVocabulary(sentinel=vocabularies.BYT5_SENTINEL)
    return MemoryCache("byt5", "train", vocabulary, {"targets": [cache.tokens("targets")]})


def everything(rows_, epoch=0, seed=0):
    return rows_.fetch(np.arange(len(rows_)), np.full(len(rows_), epoch), seed)


def restore(inputs, targets, lowest):
    """The text of a pair: every sentinel of the inputs replaced by its span in the targets."""
    spans = collections.defaultdict(list)
    for token in targets:
        if token >= lowest:
            sentinel = token
        else:
            spans[sentinel].append(token)
    return [t for token in inputs for t in (spans[token] if token >= lowest else [token])]


def source(rows_):
    flat = np.asarray(rows_.cache.tokens("targets"))
    return flat[: len(rows_) * rows_.text_length].reshape(len(rows_), -1).tolist()


def test_every_text_can_be_restored(cache):
    rows_ = rows_ul2.MixtureOfDenoisers(cache, 64, 48)
    batch, text = everything(rows_), source(rows_)
    sentinels = rows_.vocabulary.vocab_size - rows_.vocabulary.extra_ids
    modes = collections.Counter()
    for row in range(len(rows_)):
        inputs = batch["encoder_input_tokens"][row][batch["encoder_segment_ids"][row] > 0].tolist()
        targets = batch["decoder_target_tokens"][row][batch["decoder_segment_ids"][row] > 0].tolist()
        assert inputs[-1] == targets[-1] == vocabularies.EOS
        assert restore(inputs[1:-1], targets[:-1], sentinels) == text[row]
        modes[sentinels + 2 - inputs[0]] += 1
        read = batch["decoder_input_tokens"][row][: len(targets)].tolist()
        assert read == [0, *targets[:-1]]
    assert set(modes) == {0, 1, 2}


def test_as_prefix_lm_every_text_can_be_restored_and_only_hidden_spans_have_a_loss(cache):
    rows_ = rows_ul2.PrefixMixtureOfDenoisers(cache, 96)
    batch, text = everything(rows_), source(rows_)
    lowest = rows_.vocabulary.vocab_size - rows_.vocabulary.extra_ids
    for row in range(len(rows_)):
        real = batch["decoder_segment_ids"][row] > 0
        tokens = batch["decoder_target_tokens"][row][real]
        counts = batch["decoder_loss_weights"][row][real] > 0
        in_prefix = batch["decoder_prefix"][row][real]
        inputs, targets = tokens[~counts].tolist(), tokens[counts].tolist()
        assert inputs[0] in (lowest, lowest + 1, lowest + 2) and targets[-1] == vocabularies.EOS
        assert restore(inputs[1:], targets[:-1], lowest) == text[row]
        # The prefix is the start and all inputs; no token with a loss is in it.
        np.testing.assert_array_equal(in_prefix, np.arange(real.sum()) <= len(inputs))


def test_every_mode_hides_the_counts_of_its_denoisers(cache):
    rows_ = rows_ul2.MixtureOfDenoisers(cache, 64, 48)
    lowest, length = rows_.vocabulary.vocab_size - rows_.vocabulary.extra_ids, rows_.text_length
    allowed = {mode: {d.counts(length) for d in ul2.PAPER if d.mode == mode} for mode in "RX"}
    hidden, count = collections.defaultdict(set), collections.Counter()
    for epoch in range(6):
        batch = everything(rows_, epoch)
        for row in range(len(rows_)):
            inputs = batch["encoder_input_tokens"][row][batch["encoder_segment_ids"][row] > 0]
            targets = batch["decoder_target_tokens"][row][batch["decoder_segment_ids"][row] > 0][:-1]
            mode, spans = "XSR"[inputs[0] - lowest], (targets >= lowest).sum()
            count[mode] += 1
            hidden[mode].add((len(targets) - spans, spans))
            if mode == "S":
                assert inputs[-2] == rows_.vocabulary.first_sentinel
    assert {mode: hidden[mode] for mode in "RX"} == allowed
    assert hidden["S"] == {(n, 1) for n in range(1, rows_.denoisers[2].longest_end(length) + 1)}
    n = sum(count.values())
    for mode, rate in (("R", 2 / 7), ("S", 1 / 7), ("X", 4 / 7)):
        assert abs(count[mode] / n - rate) < 4 * np.sqrt(rate * (1 - rate) / n)


def test_denoisers_are_drawn_at_their_rates():
    denoisers = (Denoiser("R", 0.15, 3.0, rate=1), Denoiser("S", 0.25, rate=2), Denoiser("X", 0.5, 3.0, rate=5))
    n = 20_000
    draw = noise.uniform(0, np.zeros(n, int), np.arange(n), 1, purpose=10)[:, 0]
    shares = np.bincount(ul2.choose_denoisers(draw, denoisers), minlength=3) / n
    rates = np.array([1, 2, 5]) / 8
    assert (abs(shares - rates) < 4 * np.sqrt(rates * (1 - rates) / n)).all()


@pytest.mark.parametrize("denoiser", ul2.PAPER)
def test_a_denoiser_hides_its_share_in_spans_of_its_length(denoiser):
    rows, length = 400, 512
    kept, hidden = denoiser.draw_spans(noise.random_bits(0, np.zeros(rows, int), np.arange(rows), length, purpose=11))
    count = hidden.sum(axis=1)
    assert (kept.sum(axis=1) + count == length).all() and min(kept.min(), hidden.min()) >= 1
    if denoiser.mean_span is None:  # uniform on 1 .. 2 * density * length - 1
        assert hidden.shape == (rows, 1)
        spread = 2 * denoiser.density * length / np.sqrt(12)
        assert abs(count.mean() - denoiser.density * length) < 4 * spread / np.sqrt(rows)
        return
    assert (count == round(denoiser.density * length)).all()
    assert abs(hidden.shape[1] - count.mean() / denoiser.mean_span) <= 0.5  # a row has an integer number of spans


def slow_split(tokens, hidden, sentinel):
    inputs, targets = [], []
    for place, token in enumerate(tokens):
        if hidden[place]:
            if place == 0 or not hidden[place - 1]:
                inputs.append(sentinel)
                targets.append(sentinel)
                sentinel -= 1
            targets.append(token)
        else:
            inputs.append(token)
    return inputs, targets


def test_corruption_equals_a_loop():
    random = np.random.default_rng(0)
    for spans in (1, 2, 5):
        kept, noised = random.integers(1, 6, (30, spans)), random.integers(1, 4, (30, spans))
        length = (kept + noised).sum(axis=1)
        begin = np.cumsum(length) - length
        flat = random.integers(3, 50, length.sum()).astype(np.uint16)
        sides = noise.corrupt(flat, begin, kept, noised, 99, (40, 30))
        for row in range(30):
            hidden = np.repeat(np.tile([0, 1], spans), np.stack([kept[row], noised[row]], axis=1).reshape(-1))
            expected = slow_split(flat[begin[row] :][: length[row]].tolist(), hidden, 99)
            for side, tokens in zip(sides, expected, strict=True):
                assert side[row].tolist() == tokens + [0] * (side.shape[1] - len(tokens))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda cache: Denoiser("Q", 0.15, 3.0), "mode='Q' is none of R, S, X"),
        (lambda cache: Denoiser("S", 0.6), "density=0.6 is not between 0 and 0.5"),
        (lambda cache: Denoiser("R", 0.15, 0.2), "mean_span=0.2"),
        (lambda cache: Denoiser("R", 0.15, 3.0, rate=0), "rate=0"),
        (lambda cache: len(rows_ul2.MixtureOfDenoisers(cache, 32, 2)), "leave no room for a corrupted text"),
        (lambda cache: rows_ul2.MixtureOfDenoisers(cache, 2048, 2048).mode_ids, "and 3 modes need"),
        (lambda cache: rows_ul2.MixtureOfDenoisers(cache, 64, 48, modes=(1, 2)).mode_ids, "modes=(1, 2) are not three"),
        (lambda cache: rows_ul2.MixtureOfDenoisers(byt5(cache), 64, 48).mode_ids, "of bytes/125/258 are ids of text"),
    ],
)
def test_bad_choices_are_refused(cache, make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make(cache)

"""BART's noisers against the paper's description of each, on texts of distinct tokens."""

import collections
import math

import numpy as np
import pytest

from t5x_like.data.cache.token_cache import TokenCache
from t5x_like.data.noise import bart
from t5x_like.data.rows import bart as rows_bart
from t5x_like.data.tokenizers import vocabularies

VOCABULARY = vocabularies.ByteVocabulary(extra_ids=5000)
MASK, EOS = vocabularies.mask_id(VOCABULARY), vocabularies.EOS
ROWS = 300


def apply_noise(*noisers, rows=ROWS, length=40, short=0):
    """(texts of distinct tokens, the noised texts); the last `short` tokens of odd rows are padding."""
    text = 1000 + np.stack([np.random.default_rng(row).permutation(length) for row in range(rows)]).astype(np.int32)
    count = length - short * (np.arange(rows) % 2)
    text *= np.arange(length) < count[:, None]
    draw = bart.make_draw(0, np.zeros(rows, int), np.arange(rows))
    noised, left = text, count
    for noiser in noisers:
        noised, left = noiser(noised, left, draw, VOCABULARY)
    assert noised.shape == text.shape and noised.dtype == np.int32 and (left <= count).all()
    assert (noised[np.arange(length) >= left[:, None]] == 0).all()
    return [row[:n].tolist() for row, n in zip(text, count, strict=True)], [
        row[:n].tolist() for row, n in zip(noised, left, strict=True)
    ]


@pytest.mark.parametrize("rate", [0.15, 0.5])
def test_masking_changes_exactly_its_share(rate):
    for text, noised in zip(*apply_noise(bart.TokenMasking(rate), short=7), strict=True):
        changed = [b for a, b in zip(text, noised, strict=True) if a != b]
        assert changed == [MASK] * round(rate * len(text))


def test_every_token_is_masked_equally_often():
    _, noised = apply_noise(bart.TokenMasking(0.25), rows=4000, length=20)
    samples = (np.array(noised) == MASK).mean(axis=0)
    assert (abs(samples - 0.25) < 4.5 * np.sqrt(0.25 * 0.75 / 4000)).all()


def test_deletion_keeps_the_other_tokens_in_order():
    for text, noised in zip(*apply_noise(bart.TokenDeletion(0.2), short=7), strict=True):
        assert len(noised) == len(text) - round(0.2 * len(text))
        assert [t for t in text if t in set(noised)] == noised


def spans_of(text, noised):
    """The length of every span that a mask replaces; checks that the other tokens are in order, once each."""
    place, spans, waiting = {token: i for i, token in enumerate(text)}, [], False
    following = 0
    for token in [*noised, None]:
        if token == MASK:
            assert not waiting, "two masks touch"
            waiting = True
            continue
        here = len(text) if token is None else place[token]
        assert here >= following
        assert waiting or here == following
        if waiting:
            spans.append(here - following)
        following, waiting = here + 1, False
    return spans


def test_infilling_hides_its_share_in_spans_with_poisson_lengths():
    length, lengths = 200, collections.Counter()
    for text, noised in zip(*apply_noise(bart.TextInfilling(0.3, 3.0), length=length, short=9), strict=True):
        spans = spans_of(text, noised)
        assert sum(spans) == math.ceil(0.3 * len(text) - 1e-9)
        assert len(noised) == len(text) - sum(spans) + len(spans)
        lengths.update(spans)
    n = sum(lengths.values())
    for k in range(8):
        p = math.exp(-3) * 3**k / math.factorial(k)
        # About one span in twenty is the last one, which is cut shorter.
        assert abs(lengths[k] / n - p) < 4 * math.sqrt(p * (1 - p) / n) + 0.02, k
    assert lengths[0] > 0.03 * n


def test_infilling_chooses_all_places_equally_often():
    text = np.tile(np.arange(1000, 1006, dtype=np.int32), (6000, 1))
    draw = bart.make_draw(1, np.zeros(6000, int), np.arange(6000))
    noised, count = bart.TextInfilling(0.1, 3.0)(text, np.full(6000, 6), draw, VOCABULARY)
    assert (count == 6).all()  # one token becomes one mask
    samples = (noised == MASK).mean(axis=0)
    assert (abs(samples - 1 / 6) < 4 * np.sqrt(5 / 36 / 6000)).all()


def test_poisson_is_poisson():
    draw = bart.make_draw(0, np.zeros(50, int), np.arange(50))(2000)
    for mean in (0.5, 3.0, 20.0):
        samples = bart.poisson(draw, mean)
        assert abs(samples.mean() - mean) < 4 * math.sqrt(mean / 1e5)
        assert abs(samples.var() - mean) < 0.03 * mean


def test_sentences_are_permuted_as_units():
    ends = (1003, 1010, 1017)
    texts, noised = apply_noise(bart.SentencePermutation(ends=(), end_ids=ends), short=7)

    def sentences(tokens):
        samples = [[]]
        for token in tokens:
            samples[-1].append(token)
            if token in ends:
                samples.append([])
        return [tuple(one) for one in samples if one]

    moved = 0
    for text, changed in zip(texts, noised, strict=True):
        assert collections.Counter(text) == collections.Counter(changed)
        moved += text != changed
        # The last sentence has no end and may precede another one, so sentences are matched by their first tokens.
        begins = {one[0]: one for one in sentences(text)}
        place = 0
        while place < len(changed):
            one = begins.pop(changed[place])
            assert tuple(changed[place : place + len(one)]) == one
            place += len(one)
        assert not begins
    assert moved > 0.8 * ROWS


def test_the_default_ends_of_sentences():
    ends = bart.SentencePermutation().all_end_ids(VOCABULARY)
    assert ends.tolist() == sorted([EOS, *(ord(c) + 3 for c in ".!?\n")])


def test_rotation_rotates_the_text():
    texts, noised = apply_noise(bart.DocumentRotation(), short=7)
    first = []
    for text, turned in zip(texts, noised, strict=True):
        begin = text.index(turned[0])
        assert turned == text[begin:] + text[:begin]
        first.append(begin / len(text))
    assert abs(np.mean(first) - 0.5) < 4 / math.sqrt(12 * ROWS)


def test_noisers_compose():
    every = (
        bart.SentencePermutation((), (1003,)),
        bart.DocumentRotation(),
        bart.TokenDeletion(0.1),
        bart.TextInfilling(),
        bart.TokenMasking(0.1),
    )
    for text, noised in zip(*apply_noise(*every), strict=True):
        rest = collections.Counter(t for t in noised if t != MASK)
        assert not rest - collections.Counter(text)
        assert len(rest) < len(text)


def test_rows_have_the_text_as_targets_and_the_noised_text_as_inputs(tiny_root):
    rows_ = rows_bart.Denoising(TokenCache("tiny", "train", root=str(tiny_root)), 64)
    batch = rows_.fetch(np.arange(len(rows_)), np.zeros(len(rows_), int), 0)
    flat = np.asarray(rows_.cache.tokens("targets"))
    mask = vocabularies.mask_id(rows_.vocabulary)
    for row in range(len(rows_)):
        text = flat[row * 63 : (row + 1) * 63].tolist()
        assert batch["decoder_target_tokens"][row].tolist() == [*text, EOS]
        assert batch["decoder_input_tokens"][row].tolist() == [0, *text]
        inputs = batch["encoder_input_tokens"][row][batch["encoder_segment_ids"][row] > 0].tolist()
        assert inputs[-1] == EOS
        kept = collections.Counter(t for t in inputs[:-1] if t != mask)
        assert not kept - collections.Counter(text)
        assert sum(kept.values()) == 63 - 19  # ceil(0.3 * 63)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: bart.TokenMasking(0.0), "rate=0.0"),
        (lambda: bart.TokenDeletion(1.5), "rate=1.5"),
        (lambda: bart.TextInfilling(0.6), "rate=0.6 is not above 0 and at most 0.5"),
        (lambda: bart.TextInfilling(0.3, 0), "mean_span=0"),
        (lambda: rows_bart.Denoising(None, 16, ()), "noisers=()"),
    ],
)
def test_bad_choices_are_refused(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert message in str(error.value)

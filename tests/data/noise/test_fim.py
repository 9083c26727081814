"""Fill in the middle: texts can be restored, cuts and rates are as requested, the rest is causal language modelling."""

import numpy as np
import pytest

from t5x_like.data import rows
from t5x_like.data.cache.token_cache import TokenCache
from t5x_like.data.rows import fim
from t5x_like.data.tokenizers import vocabularies

EOS = vocabularies.EOS


@pytest.fixture(scope="module")
def cache(tiny_root):
    return TokenCache("tiny", "train", root=str(tiny_root))


def everything(rows_, epoch=0, seed=0):
    return rows_.fetch(np.arange(len(rows_)), np.full(len(rows_), epoch), seed)


def restore(tokens, special):
    """(kind, prefix, middle, suffix) of a text whose middle was moved; None where it was not."""
    pre, suf, mid = special
    if pre not in tokens:
        assert suf not in tokens and mid not in tokens
        return None
    assert tokens[0] == pre and tokens[-1] == EOS
    s, m = tokens.index(suf), tokens.index(mid)
    if s == 1:  # SPM, or PSM with an empty prefix, which is the same text
        return "SPM", tokens[m + 1 : -1], tokens[s + 1 : m]
    return "PSM", tokens[1:s] + tokens[m + 1 : -1], tokens[s + 1 : m]


def test_every_text_can_be_restored_and_only_the_longest_is_changed(cache):
    rows_ = fim.FillInTheMiddle(cache, 64)
    batch, plain = everything(rows_), everything(rows.CausalLM(cache, 60))
    kinds = {None: 0, "PSM": 0, "SPM": 0}
    for row in range(len(rows_)):
        texts = plain["decoder_segment_ids"][row]
        sizes = np.bincount(texts)
        longest = int(np.argmax(sizes))
        segments = batch["decoder_segment_ids"][row]
        for segment in range(1, texts.max() + 1):
            text = plain["decoder_target_tokens"][row][texts == segment].tolist()
            tokens = batch["decoder_target_tokens"][row][segments == segment].tolist()
            moved = restore(tokens, rows_.special_ids)
            if moved is None:
                assert tokens == text
            else:
                assert segment == longest and len(tokens) == len(text) + 3 + (text[-1] != EOS)
                body = text[:-1] if text[-1] == EOS else text
                assert moved[1] + moved[2] == body
            kinds[moved and moved[0]] += segment == longest
    n = len(rows_)
    assert abs(kinds[None] / n - 0.5) < 4 * 0.5 / np.sqrt(n)
    assert abs(kinds["SPM"] / n - 0.25) < 4 * np.sqrt(3 / 16 / n) + 0.02


def test_inputs_are_shifted_targets_and_padding_is_at_the_end(cache):
    rows_ = fim.FillInTheMiddle(cache, 64, rate=0.8)
    batch, plain = everything(rows_), everything(rows.CausalLM(cache, 60))
    inputs, targets, segments = (batch[f"decoder_{n}"] for n in ("input_tokens", "target_tokens", "segment_ids"))
    real = segments > 0
    assert (np.diff(real.astype(int), axis=1) <= 0).all() and (real.sum(axis=1) >= 60).all()
    for row in range(len(rows_)):
        pre = rows_.special_ids[0]
        for column in np.flatnonzero(real[row])[1:]:
            same = segments[row, column] == segments[row, column - 1]
            assert inputs[row, column] == (targets[row, column - 1] if same else 0)
        assert inputs[row, 0] == (0 if targets[row, 0] == pre else plain["decoder_input_tokens"][row, 0])
    np.testing.assert_array_equal(batch["decoder_loss_weights"], real)


def test_rate_0_is_causal_language_modelling(cache):
    batch, plain = everything(fim.FillInTheMiddle(cache, 36, rate=0.0)), everything(rows.CausalLM(cache, 32))
    for name in plain:
        np.testing.assert_array_equal(batch[name][:, :32], plain[name], err_msg=name)
        assert not batch[name][:, 32:].any()


@pytest.mark.parametrize("spm", [0.0, 1.0])
def test_both_cuts_are_uniform(cache, spm):
    rows_ = fim.FillInTheMiddle(cache, 64, rate=1.0, spm_rate=spm)
    shares = []
    for epoch in range(4):
        batch = everything(rows_, epoch)
        for row in range(len(rows_)):
            tokens = batch["decoder_target_tokens"][row].tolist()
            pre, suf, mid = (tokens.index(token) for token in rows_.special_ids)
            if spm:
                assert suf == pre + 1
                continue
            segments = batch["decoder_segment_ids"][row]
            end = int(np.flatnonzero(segments == segments[pre])[-1])
            body = end - pre - 3
            if body > 20:
                shares.append([(suf - pre - 1) / body, (end - mid - 1) / body, (mid - suf - 1) / body])
    if shares:  # three parts between two uniform cuts: a third each, with standard deviation sqrt(1 / 18)
        error = 4.5 * np.sqrt(1 / 18 / len(shares)) + 0.01
        assert (abs(np.mean(shares, axis=0) - 1 / 3) < error).all()


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda cache: fim.FillInTheMiddle(cache, 5), "length - 4=1 is too short"),
        (lambda cache: fim.FillInTheMiddle(cache, 16, 1.5), "rate=1.5 is not in 0 .. 1"),
        (lambda cache: fim.FillInTheMiddle(cache, 16, special=(1, 2)).special_ids, "are not three ids"),
    ],
)
def test_bad_choices_are_refused(cache, make, message):
    with pytest.raises(ValueError, match=message):
        make(cache)

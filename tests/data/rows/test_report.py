"""Rows say what becomes of the cache's tokens, and it is so."""

import collections

import numpy as np
import pytest

from t5x_like.data.tokenizers.vocabularies import EOS
from tests.data.rows import kinds

# Kinds made from texts cut from all documents joined; a model reads or predicts each of their tokens once.
OF_TEXTS = [kind for kind in kinds.KINDS if not kind.startswith(("packed", "next", "sentence"))]


@pytest.fixture(params=kinds.KINDS)
def made(request, tiny_root):
    return kinds.make(request.param, tiny_root)


def everything(made):
    return made.fetch(np.arange(len(made)), np.zeros(len(made), int), 0)


def text(made, tokens) -> collections.Counter:
    """How often each token of text comes, ends and sentinels left out."""
    lowest = made.vocabulary.vocab_size - made.vocabulary.extra_ids
    tokens = np.asarray(tokens).reshape(-1)
    return collections.Counter(tokens[(tokens > EOS) & (tokens < lowest)].tolist())


def shown(made) -> collections.Counter:
    """The text of an epoch, before it was hidden."""
    batch = everything(made)
    if "encoder_target_tokens" in batch:
        return text(made, batch["encoder_target_tokens"])
    denoised = "encoder_input_tokens" in batch and type(made).__name__ != "Denoising"
    inputs = text(made, batch["encoder_input_tokens"]) if denoised else collections.Counter()
    return text(made, batch["decoder_target_tokens"]) + inputs


def test_all_tokens_are_used_left_out_or_truncated(made):
    report = made.report
    cut = sum(count for name, count in report.items() if name.startswith("truncated_"))
    assert report["rows"] == len(made)
    assert report["tokens"] == sum(len(made.cache.tokens(name)) for name in made.task_features)
    assert report["tokens"] == report["used"] + report["left_out"] + cut
    assert min(report.values()) >= 0


@pytest.mark.parametrize("kind", OF_TEXTS)
def test_an_epoch_shows_every_token_that_is_used_once_and_no_other(kind, tiny_root):
    made = kinds.make(kind, tiny_root)
    flat = np.asarray(made.cache.tokens("targets"))
    assert 0 <= made.unused_tokens < made.text_length
    assert shown(made) == text(made, flat[: made.used_tokens])


@pytest.mark.parametrize("kind", ["packed", "packed_documents"])
def test_packed_rows_hold_what_is_used_and_are_as_full_as_they_say(kind, tiny_root):
    made = kinds.make(kind, tiny_root)
    batch = everything(made)
    real = {side: batch[f"{side}_segment_ids"] > 0 for side in made.lengths}
    assert sum(x.sum() for x in real.values()) == made.used_tokens and made.unused_tokens == 0
    assert made.fill == {side: pytest.approx(x.mean()) for side, x in real.items()}
    whole = sum((text(made, made.cache.tokens(name)) for name in made.task_features), collections.Counter())
    lost = whole - shown(made)
    assert not shown(made) - whole and lost.total() <= sum(made.truncated_tokens.values())


def test_pairs_hold_all_texts_of_two_tokens_or_more(tiny_root):
    made = kinds.make("sentence_order", tiny_root)
    assert shown(made).total() == made.used_tokens
    ends = made.cache.manifest["documents"]
    assert made.unused_tokens - ends == (np.diff(made.cache.offsets("targets")) - 1).sum() - made.used_tokens


def test_fill_is_the_share_of_what_is_no_padding(made):
    batch = everything(made)
    for side, share in made.fill.items():
        assert share == pytest.approx((batch[f"{side}_segment_ids"] > 0).mean(), abs=0.02)
        assert made.report[f"fill_{side}"] == share

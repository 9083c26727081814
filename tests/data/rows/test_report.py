"""The report of rows counts the cache's tokens correctly."""

import collections

import numpy as np
import pytest

from t5x_like.data.tokenizers.vocabularies import EOS
from tests.data.rows import kinds

# Kinds rows from texts cut from all documents joined: each token is read or predicted once.
OF_TEXTS = [kind for kind in kinds.KINDS if not kind.startswith(("packed", "next", "sentence"))]


@pytest.fixture(params=kinds.KINDS)
def rows(request, tiny_root):
    return kinds.make(request.param, tiny_root)


def everything(rows):
    return rows.fetch(np.arange(len(rows)), np.zeros(len(rows), int), 0)


def text(rows, tokens) -> collections.Counter:
    """The count of each token of text, without eos and sentinels."""
    lowest = rows.vocabulary.vocab_size - rows.vocabulary.extra_ids
    tokens = np.asarray(tokens).reshape(-1)
    return collections.Counter(tokens[(tokens > EOS) & (tokens < lowest)].tolist())


def original(rows) -> collections.Counter:
    """The text of an epoch before noise."""
    batch = everything(rows)
    if "encoder_target_tokens" in batch:
        return text(rows, batch["encoder_target_tokens"])
    denoised = "encoder_input_tokens" in batch and type(rows).__name__ != "Denoising"
    inputs = text(rows, batch["encoder_input_tokens"]) if denoised else collections.Counter()
    return text(rows, batch["decoder_target_tokens"]) + inputs


def test_tokens_are_used_unused_or_truncated(rows):
    report = rows.report
    cut = sum(count for name, count in report.items() if name.startswith("truncated_"))
    assert report["rows"] == len(rows)
    assert report["tokens"] == sum(len(rows.cache.tokens(name)) for name in rows.task_features)
    assert report["tokens"] == report["used"] + report["left_out"] + cut
    assert min(report.values()) >= 0


@pytest.mark.parametrize("kind", OF_TEXTS)
def test_an_epoch_contains_every_used_token_once(kind, tiny_root):
    rows = kinds.make(kind, tiny_root)
    flat = np.asarray(rows.cache.tokens("targets"))
    assert 0 <= rows.unused_tokens < rows.text_length
    assert original(rows) == text(rows, flat[: rows.used_tokens])


@pytest.mark.parametrize("kind", ["packed", "packed_documents"])
def test_packed_rows_hold_the_used_tokens_and_report_their_fill(kind, tiny_root):
    rows = kinds.make(kind, tiny_root)
    batch = everything(rows)
    real = {side: batch[f"{side}_segment_ids"] > 0 for side in rows.lengths}
    assert sum(x.sum() for x in real.values()) == rows.used_tokens and rows.unused_tokens == 0
    assert rows.fill == {side: pytest.approx(x.mean()) for side, x in real.items()}
    cached = sum((text(rows, rows.cache.tokens(name)) for name in rows.task_features), collections.Counter())
    lost = cached - original(rows)
    assert not original(rows) - cached and lost.total() <= sum(rows.truncated_tokens.values())


def test_pairs_hold_all_texts_of_two_tokens_or_more(tiny_root):
    rows = kinds.make("sentence_order", tiny_root)
    assert original(rows).total() == rows.used_tokens
    ends = rows.cache.manifest["documents"]
    assert rows.unused_tokens - ends == (np.diff(rows.cache.offsets("targets")) - 1).sum() - rows.used_tokens


def test_fill_is_the_share_of_positions_that_are_not_padding(rows):
    batch = everything(rows)
    for side, share in rows.fill.items():
        assert share == pytest.approx((batch[f"{side}_segment_ids"] > 0).mean(), abs=0.02)
        assert rows.report[f"fill_{side}"] == share

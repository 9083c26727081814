"""Pairs against their documents."""

import itertools

import numpy as np
import pytest

from t5x_like.data.cache.token_cache import TokenCache
from t5x_like.data.rows import pairs as rows_pairs
from t5x_like.data.tokenizers import vocabularies
from t5x_like.data.tokenizers.huggingface import TokenizerVocabulary
from tests import tiny_cache
from tests.data.tokenizers import tiny_tokenizers

KINDS = {"next": rows_pairs.NextSentence, "order": rows_pairs.SentenceOrder}


@pytest.fixture(scope="module")
def cache(tiny_root):
    return TokenCache("tiny", "train", root=str(tiny_root))


def documents(cache):
    offsets, tokens = cache.offsets("targets"), np.asarray(cache.tokens("targets"))
    return [tokens[a : b - 1].tolist() for a, b in itertools.pairwise(offsets)]


def pairs(rows, epoch=0):
    """(A, B, label) of every row, by its token types."""
    batch = rows.fetch(np.arange(len(rows)), np.full(len(rows), epoch), 0)
    cls, sep = rows_pairs.special_ids(rows.vocabulary)
    for row in range(len(rows)):
        real = batch["encoder_segment_ids"][row] > 0
        tokens, types = batch["encoder_target_tokens"][row], batch["encoder_token_types"][row]
        a, b = tokens[real & (types == 0)].tolist(), tokens[real & (types == 1)].tolist()
        assert a[0] == cls and a[-1] == b[-1] == sep and len(a) > 2 and len(b) > 1
        assert (tokens[~real] == 0).all() and (types[~real] == 0).all()
        special = np.isin(tokens, (cls, sep))
        assert not (batch["encoder_loss_weights"][row] * (special | ~real)).any()
        yield a[1:-1], b[:-1], int(batch["encoder_labels"][row, 0])


def test_chunks_join_to_the_documents(cache):
    begin, size, document = rows_pairs.cut_chunks(cache, 20)
    whole, flat = documents(cache), np.asarray(cache.tokens("targets"))
    for number, text in enumerate(whole):
        mine = document == number
        joined = [t for a, n in zip(begin[mine], size[mine], strict=True) for t in flat[a : a + n]]
        assert joined == text[: len(joined)] and len(text) - len(joined) <= 1
    assert size.max() == 20 and size.min() >= 2


@pytest.mark.parametrize("kind", KINDS)
def test_labels_are_balanced_and_differ_between_epochs(cache, kind):
    rows = KINDS[kind](cache, 48)
    labels = np.array([[label for _, _, label in pairs(rows, epoch)] for epoch in range(8)])
    assert abs(labels.mean() - 0.5) < 4 * 0.5 / np.sqrt(labels.size)
    assert (labels[0] != labels[1]).any()


def test_sentence_order_is_a_chunk_in_order_or_swapped(cache):
    rows = rows_pairs.SentenceOrder(cache, 48)
    begin, size, _ = rows.chunks
    flat = np.asarray(cache.tokens("targets"))
    for row, (a, b, label) in enumerate(pairs(rows)):
        assert (b + a if label else a + b) == flat[begin[row] : begin[row] + size[row]].tolist()


def test_next_sentence_follows_or_is_from_another_document(cache):
    rows = rows_pairs.NextSentence(cache, 48)
    begin, size, document = rows.chunks
    flat = np.asarray(cache.tokens("targets"))
    texts = [",".join(map(str, text)) for text in documents(cache)]
    for row, (a, b, label) in enumerate(pairs(rows)):
        chunk = flat[begin[row] : begin[row] + size[row]].tolist()
        assert chunk[: len(a)] == a
        if not label:
            assert a + b == chunk
        else:
            follower = ",".join(map(str, b))
            assert any(follower in text for number, text in enumerate(texts) if number != document[row])


def test_chunks_of_other_documents_are_equally_likely(cache):
    rows = rows_pairs.NextSentence(cache, 48)
    document = rows.chunks[2]
    n, row = 200_000, 3
    uniform = (np.arange(n) + 0.5) / n
    counts = np.bincount(rows.choose_other_documents(np.full(n, row), uniform), minlength=len(rows))
    other = document != document[row]
    assert (counts[~other] == 0).all() and np.ptp(counts[other]) <= 1


def test_next_sentence_with_one_document_is_refused(tmp_path):
    cache = tiny_cache.write(tmp_path, {"targets": tiny_cache.documents(1)})
    rows = rows_pairs.NextSentence(cache, 16)
    with pytest.raises(ValueError, match="has one document .* use SentenceOrder"):
        rows.fetch(np.zeros(1, int), np.zeros(1, int), 0)


def test_the_special_tokens_of_a_vocabulary_are_used():
    tokenizer = tiny_tokenizers.wordpiece()
    vocabulary = TokenizerVocabulary(tokenizer.to_str(), 200)
    assert rows_pairs.special_ids(vocabulary) == (tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]"))


@pytest.mark.parametrize("make, message", [
    (lambda cache: rows_pairs.NextSentence(cache, 4), "length=4 is too short for two texts"),
    (lambda cache: rows_pairs.SentenceOrder(cache, 16, 1.0), "mask_rate=1.0"),
    (lambda cache: rows_pairs.special_ids(vocabularies.ByteVocabulary(1)), "extra_ids=1; pairs need"),
])  # fmt: skip
def test_bad_choices_are_refused(cache, make, message):
    with pytest.raises(ValueError, match=message):
        make(cache)

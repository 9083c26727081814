"""Whole-word masking: words are delimited by spaces and masked together."""

import numpy as np
import pytest

from t5x_like.data import rows
from t5x_like.data.cache.token_cache import TokenCache
from t5x_like.data.noise import words
from t5x_like.data.tokenizers import vocabularies
from t5x_like.data.tokenizers.huggingface import TokenizerVocabulary
from tests import tiny_cache
from tests.data.tokenizers import tiny_tokenizers

TEXT = " ".join(tiny_cache.documents(3))
VOCABULARIES = {
    "bytes": vocabularies.ByteVocabulary(),
    "byte_level": TokenizerVocabulary(tiny_tokenizers.byte_level().to_str(), 400),
    "wordpiece": TokenizerVocabulary(tiny_tokenizers.wordpiece().to_str(), 200),
    "unigram": TokenizerVocabulary(tiny_tokenizers.unigram().to_str(), 300),
    "sentencepiece": vocabularies.SentencePieceVocabulary(tiny_tokenizers.sentencepiece_file("t5")),
}


@pytest.mark.parametrize("name", VOCABULARIES)
def test_words_are_delimited_by_spaces(name):
    vocabulary = VOCABULARIES[name]
    ids = np.array([vocabulary.encode(TEXT)])
    text_V = vocabulary.bytes_per_token_V > 0
    word = words.number_words(ids, np.ones_like(ids), words.find_word_starts(vocabulary), text_V)[0]
    texts = [vocabulary.decode(ids[0][word == number]).strip() for number in range(word[-1] + 1)]
    assert texts == TEXT.split()


def test_word_start_V_of_the_vocabulary_wins_and_special_tokens_and_segments_end_words():
    class Vocabulary:
        word_start_V = (1, 1, 0, 0, 1)

    start_V, text_V = words.find_word_starts(Vocabulary()), np.array([False, False, True, True, True])
    tokens = np.array([[2, 3, 4, 2, 0, 3, 2, 2]])
    segments = np.array([[1, 1, 1, 1, 1, 1, 1, 2]])
    assert words.number_words(tokens, segments, start_V, text_V)[0].tolist() == [0, 0, 1, 1, 2, 3, 3, 4]


def test_whole_words_are_chosen_at_the_rate_and_masked_80_10_10(tiny_root):
    rows_ = rows.WholeWordMaskedLM(TokenCache("tiny", "train", root=str(tiny_root)), 64)
    vocabulary, size = rows_.vocabulary, len(rows_)
    batches = [rows_.fetch(np.arange(size), np.full(size, epoch), 0) for epoch in range(20)]
    inputs, tokens, chosen, segments = (
        np.concatenate([batch[f"encoder_{name}"] for batch in batches])
        for name in ("input_tokens", "target_tokens", "loss_weights", "segment_ids")
    )
    chosen, text = chosen > 0, tokens > vocabularies.UNK
    word = words.number_words(tokens, segments, words.find_word_starts(vocabulary), vocabulary.bytes_per_token_V > 0)
    same = (word[:, 1:] == word[:, :-1]) & text[:, 1:] & text[:, :-1]
    assert (chosen[:, 1:] == chosen[:, :-1])[same].all() and not (chosen & ~text).any()
    np.testing.assert_array_equal(inputs[~chosen], tokens[~chosen])
    first = np.concatenate([np.ones((len(word), 1), bool), word[:, 1:] != word[:, :-1]], axis=1) & text
    n = first.sum()
    assert abs(chosen[first].mean() - 0.15) < 4 * np.sqrt(0.15 * 0.85 / n)
    masked = (inputs == vocabularies.mask_id(vocabulary))[chosen].mean()
    assert abs(masked - 0.8) < 4 * np.sqrt(0.16 / chosen.sum())
    assert not np.array_equal(batches[0]["encoder_loss_weights"], batches[1]["encoder_loss_weights"])


def test_a_vocabulary_without_words_is_refused():
    vocabulary = TokenizerVocabulary(tiny_tokenizers.byte_level().to_str().replace("Ġ", "ł"), 400)
    vocabulary.__dict__["bytes_per_token_V"] = np.zeros(400, int)
    with pytest.raises(ValueError, match="give it a word_start_V"):
        words.find_word_starts(vocabulary)

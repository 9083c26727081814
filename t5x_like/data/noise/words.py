"""Finds the tokens of each word, for masking whole words (BERT's second release; Devlin et al. 2019, README)."""

import numpy as np

from t5x_like.data.noise import base as noise
from t5x_like.data.tokenizers import vocabularies
from t5x_like.types import Vocabulary

CONTINUES = "##"  # WordPiece
BYTE_SPACES = ("Ġ", "Ċ", "ĉ")  # space, newline and tab in byte-level tokens


def find_word_starts(vocabulary: Vocabulary) -> np.ndarray:
    """bool [V], tokens that begin a word: the vocabulary's `word_start_V`, or by how its tokens are spelt.

    WordPiece: those without ##; SentencePiece: with ▁; byte-level: with a space; bytes: a space. Special tokens do too.

    Raises:
      ValueError: the spelling marks no words.
    """
    if (own := getattr(vocabulary, "word_start_V", None)) is not None:
        return np.asarray(own, bool)
    starts = vocabulary.bytes_per_token_V == 0
    if isinstance(vocabulary, vocabularies.ByteVocabulary):
        starts[[byte + 3 for byte in b" \n\t\r"]] = True
        return starts
    text = vocabularies.text_ids(vocabulary)
    spelt = [vocabulary.token(int(index)) for index in text]
    if any(token.startswith(CONTINUES) and len(token) > 2 for token in spelt):
        starts[text] = [not token.startswith(CONTINUES) for token in spelt]
        return starts
    for marks in ((vocabularies.SPACE_MARK,), BYTE_SPACES):
        if any(token.startswith(marks) for token in spelt):
            starts[text] = [token.startswith(marks) for token in spelt]
            return starts
    raise ValueError(
        f"no token of the vocabulary {vocabulary.fingerprint} begins with ▁, Ġ or ##, so words cannot be told apart; "
        "give it a word_start_V, or mask tokens (whole_words=False)"
    )


def number_words(tokens_nL: np.ndarray, segments_nL: np.ndarray, start_V: np.ndarray, text_V: np.ndarray) -> np.ndarray:
    """The number 0, 1, 2, ... of every token's word in its row; a word never extends beyond its segment."""
    begins = start_V[tokens_nL]
    begins[:, 0] = False
    # A token after a special token, or first in a segment, begins a word whatever its spelling.
    begins[:, 1:] |= ~text_V[tokens_nL[:, :-1]] | (segments_nL[:, 1:] != segments_nL[:, :-1])
    return np.cumsum(begins, axis=1)


def mask_text(
    vocabulary: Vocabulary,
    tokens_nL: np.ndarray,
    segments_nL: np.ndarray,
    keys: tuple[int, np.ndarray, np.ndarray],
    rate: float,
    start_V: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """(inputs, chosen) of BERT's masking at `rate`; padding and special tokens are never chosen.

    `keys` are seed, epoch_n and index_n. With `start_V`, the tokens that begin a word, whole words are chosen.
    """
    text_V = vocabulary.bytes_per_token_V > 0
    width = tokens_nL.shape[1]
    chosen = noise.random_bits(*keys, width, purpose=3) < np.uint32(rate * 2**32)
    if start_V is not None:
        chosen = np.take_along_axis(chosen, number_words(tokens_nL, segments_nL, start_V, text_V), axis=1)
    chosen &= text_V[tokens_nL]
    chosen &= segments_nL > 0
    bits_nL = noise.random_bits(*keys, width, purpose=4)
    mask = vocabularies.mask_id(vocabulary)
    return noise.mask_tokens(tokens_nL, chosen, bits_nL, mask, vocabularies.text_ids(vocabulary)), chosen

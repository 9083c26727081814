"""Which tokens make a word, so that whole words are masked (BERT's second release; Devlin et al. 2019, README)."""

import numpy as np

from t5x_like.data import noise, vocabularies

CONTINUES = "##"  # WordPiece
BYTE_SPACES = ("Ġ", "Ċ", "ĉ")  # space, newline and tab as byte-level tokens spell them


def word_starts(vocabulary) -> np.ndarray:
    """bool [V], tokens that begin a word: the vocabulary's `word_start_V`, or by how its tokens are spelt.

    WordPiece: those without ##; SentencePiece: with ▁; byte-level: with a space; bytes: a space. What is no text begins one too.
    """
    if (given := getattr(vocabulary, "word_start_V", None)) is not None:
        return np.asarray(given, bool)
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
        f"no token of the vocabulary {vocabulary.fingerprint} begins with ▁, Ġ or ##, so words are not to be told apart; "
        "give it a word_start_V, or mask tokens (whole_words=False)"
    )


def words(tokens_nL: np.ndarray, segments_nL: np.ndarray, start_V: np.ndarray, text_V: np.ndarray) -> np.ndarray:
    """The number of every token's word in its row, 0, 1, 2, ...; a word ends at the latest where its segment does."""
    begins = start_V[tokens_nL]
    begins[:, 0] = False
    # What follows a special token or stands first in a segment begins a word, however it is spelt.
    begins[:, 1:] |= ~text_V[tokens_nL[:, :-1]] | (segments_nL[:, 1:] != segments_nL[:, :-1])
    return np.cumsum(begins, axis=1)


def choices(uniform_nL: np.ndarray, word_nL: np.ndarray) -> np.ndarray:
    """One draw a word, for all of its tokens."""
    return np.take_along_axis(uniform_nL, word_nL, axis=1)


def masked(vocabulary, tokens_nL, segments_nL, draws, rate: float, whole_words: bool):
    """`noise.mask_tokens` by the vocabulary's ids, of whole words or single tokens; padding is never chosen.

    `draws` are three uniforms [n, L]: whether a token (or word) is chosen, what becomes of it, and which one.
    """
    choose_nL, what_nL, which_nL = draws
    text = vocabularies.text_ids(vocabulary)
    if whole_words:
        text_V = vocabulary.bytes_per_token_V > 0
        choose_nL = choices(choose_nL, words(tokens_nL, segments_nL, word_starts(vocabulary), text_V))
    choose_nL = np.where(segments_nL > 0, choose_nL, 2.0)
    return noise.mask_tokens(tokens_nL, choose_nL, what_nL, which_nL, rate, vocabularies.mask_id(vocabulary), text)

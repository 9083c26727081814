"""Which tokens make a word, so that whole words are masked (BERT's second release; Devlin et al. 2019, README)."""

import numpy as np

from t5x_like.data.noise import base as noise
from t5x_like.data.tokenizers import vocabularies

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


def masked(vocabulary, tokens_nL, segments_nL, keys, rate: float, start_V: np.ndarray | None):
    """(inputs, chosen) of BERT's masking by the vocabulary's ids; padding is never chosen.

    `keys` are seed, epoch_n and index_n. Where `start_V` says which tokens begin a word, words are chosen whole.
    """
    text_V = vocabulary.bytes_per_token_V > 0
    width = tokens_nL.shape[1]
    chosen = noise.bits(*keys, width, purpose=3) < np.uint32(rate * 2**32)
    if start_V is not None:
        chosen = np.take_along_axis(chosen, words(tokens_nL, segments_nL, start_V, text_V), axis=1)
    chosen &= text_V[tokens_nL]
    chosen &= segments_nL > 0
    what_nL = noise.bits(*keys, width, purpose=4)
    mask = vocabularies.mask_id(vocabulary)
    return noise.mask_tokens(tokens_nL, chosen, what_nL, mask, vocabularies.text_ids(vocabulary)), chosen

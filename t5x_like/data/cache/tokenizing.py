"""Tokenizes documents into the arrays that a token cache holds: concatenated, validated and counted ids."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from t5x_like.data.tokenizers import vocabularies
from t5x_like.types import Vocabulary

MASK_VOCAB_SIZE = 2  # a mask has the ids 0 and 1


class BadDocument(ValueError):
    """A document, by its index in its batch, and what is wrong with it."""

    def __init__(self, index: int, reason: str):
        super().__init__(index, reason)
        self.index, self.reason = index, reason

    def with_offset(self, offset: int) -> ValueError:
        """The error with the document's number in the split; `offset` documents precede the batch."""
        return ValueError(f"document {offset + self.index} {self.reason}")


@dataclasses.dataclass(frozen=True)
class Texts:
    """The texts of a feature of some documents, in UTF-8, and the ids to append to each."""

    texts: Sequence[bytes]
    ending: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Tokens:
    """The ids of a feature of some documents, concatenated, and the length of each document."""

    ids: np.ndarray
    lengths: np.ndarray
    text_bytes: int
    max_id: int


def is_mask(feature: str) -> bool:
    """Whether a feature is a mask: zeros and ones aligned with the tokens of another feature."""
    return feature.endswith("_mask")


def id_type(feature: str, vocab_size: int) -> np.dtype:
    """The smallest dtype that holds a feature's ids."""
    if is_mask(feature):
        return np.dtype(np.uint8)
    return np.dtype(np.uint16 if vocab_size <= 2**16 else np.uint32)


def join_documents(
    feature: str,
    documents: Sequence[Sequence[int] | np.ndarray],
    vocabulary: Vocabulary,
    ending: tuple[int, ...] = (),
) -> Tokens:
    """Concatenates the ids of documents, each followed by `ending`.

    Raises:
      BadDocument: a document has an id outside the vocabulary.
    """
    lengths = np.fromiter(map(len, documents), np.int64, len(documents))
    if documents and isinstance(documents[0], np.ndarray):
        ids = np.concatenate(documents)
    else:
        ids = np.fromiter(itertools.chain.from_iterable(documents), np.int64, int(lengths.sum()))
    size = MASK_VOCAB_SIZE if is_mask(feature) else vocabulary.vocab_size
    check_ids(feature, ids, lengths, size)
    max_id = int(ids.max(initial=0))
    text_bytes = 0 if is_mask(feature) else int(vocabulary.bytes_per_token_V[ids].sum(dtype=np.int64))
    ids = ids.astype(id_type(feature, vocabulary.vocab_size), copy=False)
    for index in ending:
        ids, lengths, max_id = np.insert(ids, np.cumsum(lengths), index), lengths + 1, max(max_id, index)
    return Tokens(ids, lengths, text_bytes, max_id)


def check_ids(feature: str, ids: np.ndarray, lengths: np.ndarray, size: int) -> None:
    """Checks that all ids are in [0, size).

    Raises:
      BadDocument: a document has an id outside that range.
    """
    if not len(ids) or (ids.min() >= 0 and ids.max() < size):
        return
    wrong = np.flatnonzero((ids < 0) | (ids >= size))[0]
    raise BadDocument(
        int(np.searchsorted(np.cumsum(lengths), wrong, side="right")),
        f"has the id {ids[wrong]} in feature {feature!r}, its vocabulary has {size} ids; use the vocabulary that the "
        "preprocessors tokenize with",
    )


def tokenize(feature: str, batch: Texts, vocabulary: Vocabulary) -> Tokens:
    """Tokenizes texts literally; bytes that are not UTF-8 become U+FFFD, as in seqio.

    Raises:
      BadDocument: the tokenizer rejects a text.
    """
    texts = [text.decode("utf-8", errors="replace") for text in batch.texts]
    try:
        documents = vocabularies.encode_documents(vocabulary, texts)
    except Exception as error:  # tokenizers raises Exception itself
        raise find_bad_document(feature, texts, vocabulary, error) from error
    return join_documents(feature, documents, vocabulary, batch.ending)


def find_bad_document(feature: str, texts: list[str], vocabulary: Vocabulary, error: Exception) -> BadDocument:
    """The error of the first text that the tokenizer rejects; `error` is that of the whole batch."""
    for index, text in enumerate(texts):
        try:
            vocabulary.encode(text, literal=True)
        except Exception as own_error:
            return BadDocument(index, f"cannot be tokenized: {own_error} (feature {feature!r}: {text[:60]!r})")
    return BadDocument(0, f"or one of the next {len(texts) - 1} cannot be tokenized: {error} (feature {feature!r})")

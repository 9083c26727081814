"""Texts and ids as a token cache holds them: the documents of a feature joined, checked and counted."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from t5x_like.data.tokenizers import vocabularies
from t5x_like.types import Vocabulary

MASK_SIZE = 2  # ids of a mask: 0 and 1


class BadDocument(ValueError):
    """A document, by its place among those given, and what is wrong with it."""

    def __init__(self, index: int, reason: str):
        super().__init__(index, reason)
        self.index, self.reason = index, reason

    def at(self, before: int) -> ValueError:
        """The error with the document's number, `before` documents having come before those given."""
        return ValueError(f"document {before + self.index} {self.reason}")


@dataclasses.dataclass(frozen=True)
class Texts:
    """A feature's texts of some documents, in UTF-8, and the ids that end each of them."""

    texts: Sequence[bytes]
    ending: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Tokens:
    """A feature's ids of some documents, joined, and the length of each."""

    ids: np.ndarray
    lengths: np.ndarray
    text_bytes: int
    max_id: int


def is_mask(feature: str) -> bool:
    """Whether a feature says something of another one's tokens, by 0 and 1, and is none itself."""
    return feature.endswith("_mask")


def id_type(feature: str, vocab_size: int) -> np.dtype:
    """The smallest type that a feature's ids fit in."""
    if is_mask(feature):
        return np.dtype(np.uint8)
    return np.dtype(np.uint16 if vocab_size <= 2**16 else np.uint32)


def joined(feature: str, documents: Sequence[Sequence[int]], vocabulary: Vocabulary, ending=()) -> Tokens:
    """The ids of documents, each with `ending` behind it.

    Raises:
      BadDocument: one has an id that is not of the vocabulary.
    """
    lengths = np.fromiter(map(len, documents), np.int64, len(documents))
    if documents and isinstance(documents[0], np.ndarray):
        ids = np.concatenate(documents)
    else:
        ids = np.fromiter(itertools.chain.from_iterable(documents), np.int64, int(lengths.sum()))
    size = MASK_SIZE if is_mask(feature) else vocabulary.vocab_size
    check_ids(feature, ids, lengths, size)
    max_id = int(ids.max(initial=0))
    text_bytes = 0 if is_mask(feature) else int(vocabulary.bytes_per_token_V[ids].sum(dtype=np.int64))
    ids = ids.astype(id_type(feature, vocabulary.vocab_size), copy=False)
    for index in ending:
        ids, lengths, max_id = np.insert(ids, np.cumsum(lengths), index), lengths + 1, max(max_id, index)
    return Tokens(ids, lengths, text_bytes, max_id)


def check_ids(feature: str, ids: np.ndarray, lengths: np.ndarray, size: int) -> None:
    """Refuses an id that is not below `size`."""
    if not len(ids) or (ids.min() >= 0 and ids.max() < size):
        return
    wrong = np.flatnonzero((ids < 0) | (ids >= size))[0]
    raise BadDocument(
        int(np.searchsorted(np.cumsum(lengths), wrong, side="right")),
        f"has the id {ids[wrong]} in feature {feature!r}, its vocabulary has {size} ids; the preprocessors and the "
        "vocabulary do not fit together",
    )


def tokenized(feature: str, given: Texts, vocabulary: Vocabulary) -> Tokens:
    """The ids of texts; bytes that are no UTF-8 are read as U+FFFD, as seqio reads them.

    Raises:
      BadDocument: the tokenizer refuses a text.
    """
    texts = [text.decode("utf-8", errors="replace") for text in given.texts]
    try:
        documents = vocabularies.encode_batch(vocabulary, texts)
    except Exception as error:  # tokenizers raises Exception itself
        raise refused(feature, texts, vocabulary, error) from error
    return joined(feature, documents, vocabulary, given.ending)


def refused(feature: str, texts: list[str], vocabulary: Vocabulary, error: Exception) -> BadDocument:
    """Which text the tokenizer refuses."""
    for index, text in enumerate(texts):
        try:
            vocabulary.encode(text)
        except Exception as own:
            return BadDocument(index, f"cannot be tokenized: {own} (feature {feature!r}: {text[:60]!r})")
    return BadDocument(0, f"or one of the {len(texts) - 1} after it cannot be tokenized: {error} (feature {feature!r})")

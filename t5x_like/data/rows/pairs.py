"""Rows of two texts, [CLS] A [SEP] B [SEP], with masked tokens and a label: BERT's next sentence, ALBERT's sentence order."""

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np

from t5x_like.batches import Feature
from t5x_like.data.cache.token_cache import TokenCache
from t5x_like.data.noise import base as noise
from t5x_like.data.noise import words
from t5x_like.data.rows.arrays import Arrays3, Batch, build_inputs
from t5x_like.data.rows.base import Rows
from t5x_like.data.tokenizers import vocabularies
from t5x_like.types import Vocabulary

Span = tuple[np.ndarray, np.ndarray]  # begin and size of one text per row, in the tokens of the cache


def cut_chunks(cache: TokenCache, length: int) -> Arrays3:
    """(begin, size, document) of chunks of at most `length` tokens, none across documents, without the final eos.

    Chunks of one token are left out, because they cannot be split into two texts.
    """
    offsets, tokens, eos = cache.offsets("targets"), cache.tokens("targets"), cache.vocabulary.eos
    sizes = np.diff(offsets)
    last = np.asarray(tokens[np.maximum(offsets[1:] - 1, 0)]).astype(np.int64)
    sizes = sizes - ((sizes > 0) & (last == (-1 if eos is None else eos)))
    count = -(-sizes // length)
    document = np.repeat(np.arange(len(sizes)), count)
    nth = np.arange(len(document)) - np.repeat(np.cumsum(count) - count, count)
    begin = offsets[document] + nth * length
    size = np.minimum(length, sizes[document] - nth * length)
    kept = size >= 2
    return begin[kept], size[kept], document[kept]


def special_ids(vocabulary: Vocabulary) -> tuple[int, int]:
    """(the id before the texts, the id after each): the vocabulary's [CLS] and [SEP], or the first sentinel and eos.

    Raises:
      ValueError: the vocabulary has neither.
    """
    special = vocabulary.encode_special("")
    if len(special) == 2:
        return special[0], special[1]
    if vocabulary.extra_ids < 2:
        raise ValueError(
            f"the vocabulary {vocabulary.fingerprint} does not put two tokens around a text and has extra_ids="
            f"{vocabulary.extra_ids}; pairs need a [CLS], or 2 sentinels (one for the mask)"
        )
    return vocabulary.first_sentinel, vocabularies.end_id(vocabulary)


@dataclasses.dataclass(frozen=True)
class PairRows(Rows):
    """The base of both kinds: a chunk of a document, split in two at a place drawn every epoch, masked as in MaskedLM."""

    length: int
    mask_rate: float = 0.15
    whole_words: bool = False

    def __post_init__(self) -> None:
        if self.length < 5:
            raise ValueError(f"length={self.length} is too short for two texts and 3 special tokens; use 5 or more")
        if not 0 < self.mask_rate < 1:
            raise ValueError(f"mask_rate={self.mask_rate} is not between 0 and 1; BERT uses 0.15")

    @functools.cached_property
    def chunks(self) -> Arrays3:
        """(begin, size, document) of all chunks; row i is made from chunk i."""
        return cut_chunks(self.cache, self.length - 3)

    def __len__(self) -> int:
        return len(self.chunks[0])

    @functools.cached_property
    def used_tokens(self) -> int:
        """Tokens of all chunks; in one epoch, NextSentence leaves some of them out and shows others twice."""
        return int(self.chunks[1].sum())

    @functools.cached_property
    def word_start_V(self) -> np.ndarray | None:
        """bool [V], tokens that begin a word; None unless whole words are masked."""
        return words.find_word_starts(self.vocabulary) if self.whole_words else None

    @property
    def lengths(self) -> Mapping[str, int]:
        return {"encoder": self.length}

    @property
    def extra_features(self) -> Mapping[str, Feature]:
        return {
            "encoder_token_types": Feature((self.length,), needed=True),
            "encoder_labels": Feature((1,), needed=True),
        }

    def choose_texts(self, index_n: np.ndarray, epoch_n: np.ndarray, seed: int) -> tuple[Span, Span, np.ndarray]:
        """(A, B, label) of every row."""
        raise NotImplementedError

    def draw_splits(self, index_n: np.ndarray, epoch_n: np.ndarray, seed: int) -> np.ndarray:
        """The number of a chunk's tokens before its split; at least one token is on each side."""
        draw = noise.uniform(seed, epoch_n, index_n, 1, purpose=20)[:, 0]
        return 1 + (draw * (self.chunks[1][index_n] - 1)).astype(np.int64)

    def fetch(self, index_n: np.ndarray, epoch_n: np.ndarray, seed: int) -> Batch:
        a, b, label_n = self.choose_texts(index_n, epoch_n, seed)
        flat, special = self.cache.tokens("targets"), special_ids(self.vocabulary)
        tokens, types, count_n = join_pairs(flat, a, b, special, self.length)
        batch = build_inputs("encoder", tokens, count_n)
        keys, segments = (seed, epoch_n, index_n), batch["encoder_segment_ids"]
        inputs, chosen = words.mask_text(self.vocabulary, tokens, segments, keys, self.mask_rate, self.word_start_V)
        return batch | {
            "encoder_input_tokens": inputs,
            "encoder_target_tokens": tokens,
            "encoder_token_types": types,
            "encoder_loss_weights": chosen.astype(np.float32),
            "encoder_labels": label_n[:, None].astype(np.int32),
        }


def join_pairs(flat: np.ndarray, a: Span, b: Span, special: tuple[int, int], length: int) -> Arrays3:
    """(tokens, types, counts) of rows [CLS] A [SEP] B [SEP]: types are 0 up to the first [SEP], then 1, int32 [n, L]."""
    (a_begin, a_size), (b_begin, b_size) = ((begin[:, None], size[:, None]) for begin, size in (a, b))
    column = np.arange(length)
    in_a, in_b = column - 1, column - 2 - a_size
    is_a, is_b = (in_a >= 0) & (in_a < a_size), (in_b >= 0) & (in_b < b_size)
    source = np.where(is_a, a_begin + in_a, np.where(is_b, b_begin + in_b, 0))
    count = a_size + b_size + 3
    tokens = np.where(is_a | is_b, flat[source], special[1])
    tokens = np.where(column == 0, special[0], tokens) * (column < count)
    types = (column >= a_size + 2) & (column < count)
    return tokens.astype(np.int32), types.astype(np.int32), count[:, 0]


@dataclasses.dataclass(frozen=True)
class SentenceOrder(PairRows):
    """ALBERT's pairs (Lan et al. 2020): two parts of a document in order (label 0) or swapped (1), equally often."""

    def choose_texts(self, index_n: np.ndarray, epoch_n: np.ndarray, seed: int) -> tuple[Span, Span, np.ndarray]:
        begin_n, size_n = self.chunks[0][index_n], self.chunks[1][index_n]
        split_n = self.draw_splits(index_n, epoch_n, seed)
        swapped_n = noise.uniform(seed, epoch_n, index_n, 1, purpose=21)[:, 0] < 0.5
        first, second = (begin_n, split_n), (begin_n + split_n, size_n - split_n)

        def choose(x: Span, y: Span) -> Span:
            return np.where(swapped_n, y[0], x[0]), np.where(swapped_n, y[1], x[1])

        return choose(first, second), choose(second, first), swapped_n


@dataclasses.dataclass(frozen=True)
class NextSentence(PairRows):
    """BERT's pairs (Devlin et al. 2019): B follows A (label 0) or is from another document (1), equally often."""

    def choose_texts(self, index_n: np.ndarray, epoch_n: np.ndarray, seed: int) -> tuple[Span, Span, np.ndarray]:
        begin_n, size_n = self.chunks[0][index_n], self.chunks[1][index_n]
        split_n = self.draw_splits(index_n, epoch_n, seed)
        draw = noise.uniform(seed, epoch_n, index_n, 3, purpose=21)
        random_n = draw[:, 0] < 0.5
        other_n = self.choose_other_documents(index_n, draw[:, 1])
        other_size_n = self.chunks[1][other_n]
        end_n = 1 + (draw[:, 2] * (other_size_n - 1)).astype(np.int64)  # its last tokens, as many as fit
        taken_n = np.minimum(end_n, self.length - 3 - split_n)
        b_begin = np.where(random_n, self.chunks[0][other_n] + other_size_n - end_n, begin_n + split_n)
        return (begin_n, split_n), (b_begin, np.where(random_n, taken_n, size_n - split_n)), random_n

    def choose_other_documents(self, index_n: np.ndarray, uniform_n: np.ndarray) -> np.ndarray:
        """The index of a chunk of another document, all equally likely.

        Raises:
          ValueError: there is only one document.
        """
        document = self.chunks[2]
        if document[0] == document[-1]:
            raise ValueError(
                f"{self.cache.task}/{self.cache.split} has one document of 2 tokens or more; NextSentence needs a second one "
                "for its negative pairs: use SentenceOrder"
            )
        first = np.searchsorted(document, document[index_n])
        own = np.searchsorted(document, document[index_n], side="right") - first
        chosen = (uniform_n * (len(document) - own)).astype(np.int64)
        return chosen + own * (chosen >= first)

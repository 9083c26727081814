"""Rows of two texts, [CLS] A [SEP] B [SEP], with masked tokens and a label: BERT's next sentence, ALBERT's sentence order."""

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np

from t5x_like.batches import Feature
from t5x_like.data.cache.token_cache import TokenCache
from t5x_like.data.noise import base as noise
from t5x_like.data.noise import words
from t5x_like.data.rows.arrays import Batch, ragged
from t5x_like.data.rows.base import Rows
from t5x_like.data.tokenizers import vocabularies


def chunks(cache: TokenCache, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(begin, size, document) of pieces of at most `length` tokens, none across documents, their last eos left out.

    Pieces of one token are left out: they do not make two texts.
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


def around(vocabulary) -> tuple[int, int]:
    """(what stands before the texts, what behind each): the vocabulary's [CLS] and [SEP], or the first sentinel and eos."""
    special = vocabulary.encode_special("")
    if len(special) == 2:
        return special[0], special[1]
    if vocabulary.extra_ids < 2:
        raise ValueError(
            f"the vocabulary {vocabulary.fingerprint} puts no two tokens around a text and has extra_ids="
            f"{vocabulary.extra_ids}; pairs need a [CLS], or 2 sentinels (one for the mask)"
        )
    return vocabulary.first_sentinel, vocabularies.end_id(vocabulary)


@dataclasses.dataclass(frozen=True)
class Pairs(Rows):
    """What both share: a piece of a document, cut in two at a place drawn anew in every epoch, masked as in MaskedLM."""

    length: int
    mask_rate: float = 0.15
    whole_words: bool = False

    def __post_init__(self):
        if self.length < 5:
            raise ValueError(f"length={self.length} is too short for two texts and 3 special tokens; use 5 or more")
        if not 0 < self.mask_rate < 1:
            raise ValueError(f"mask_rate={self.mask_rate} is not between 0 and 1; BERT uses 0.15")

    @functools.cached_property
    def chunks(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return chunks(self.cache, self.length - 3)

    def __len__(self) -> int:
        return len(self.chunks[0])

    @functools.cached_property
    def used(self) -> int:
        """Tokens of all pieces; of those NextSentence leaves some out in one epoch and shows others twice."""
        return int(self.chunks[1].sum())

    @functools.cached_property
    def word_start_V(self) -> np.ndarray | None:
        """Which tokens begin a word, where whole words are masked."""
        return words.word_starts(self.vocabulary) if self.whole_words else None

    @property
    def lengths(self) -> dict[str, int]:
        return {"encoder": self.length}

    @property
    def extra_features(self) -> Mapping[str, Feature]:
        return {"encoder_token_types": Feature((self.length,)), "encoder_labels": Feature((1,))}

    def parts(self, index_n, epoch_n, seed: int):
        """((begin, size) of A, (begin, size) of B, label) for every row."""
        raise NotImplementedError

    def cut(self, index_n, epoch_n, seed: int) -> np.ndarray:
        """Tokens of a piece before its cut: at least one, and at least one is left."""
        draw = noise.uniform(seed, epoch_n, index_n, 1, purpose=20)[:, 0]
        return 1 + (draw * (self.chunks[1][index_n] - 1)).astype(np.int64)

    def fetch(self, index_n: np.ndarray, epoch_n: np.ndarray, seed: int) -> Batch:
        a, b, label_n = self.parts(index_n, epoch_n, seed)
        tokens, types, count_n = joined(self.cache.tokens("targets"), a, b, around(self.vocabulary), self.length)
        batch = ragged("encoder", tokens, count_n)
        keys, segments = (seed, epoch_n, index_n), batch["encoder_segment_ids"]
        inputs, chosen = words.masked(self.vocabulary, tokens, segments, keys, self.mask_rate, self.word_start_V)
        return batch | {
            "encoder_input_tokens": inputs,
            "encoder_target_tokens": tokens,
            "encoder_token_types": types,
            "encoder_loss_weights": chosen.astype(np.float32),
            "encoder_labels": label_n[:, None].astype(np.int32),
        }


def joined(flat, a, b, special: tuple[int, int], length: int):
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
class SentenceOrder(Pairs):
    """ALBERT's pairs (Lan et al. 2020): two parts of a document in order (label 0) or swapped (1), equally often."""

    def parts(self, index_n, epoch_n, seed: int):
        begin_n, size_n = (x[index_n] for x in self.chunks[:2])
        cut_n = self.cut(index_n, epoch_n, seed)
        swapped_n = noise.uniform(seed, epoch_n, index_n, 1, purpose=21)[:, 0] < 0.5
        first, second = (begin_n, cut_n), (begin_n + cut_n, size_n - cut_n)
        a, b = (
            tuple(np.where(swapped_n, y, x) for x, y in zip(one, other, strict=True))
            for one, other in ((first, second), (second, first))
        )
        return a, b, swapped_n


@dataclasses.dataclass(frozen=True)
class NextSentence(Pairs):
    """BERT's pairs (Devlin et al. 2019): B follows A (label 0) or is from another document (1), equally often."""

    def parts(self, index_n, epoch_n, seed: int):
        begin_n, size_n, _ = (x[index_n] for x in self.chunks)
        cut_n = self.cut(index_n, epoch_n, seed)
        draw = noise.uniform(seed, epoch_n, index_n, 3, purpose=21)
        other_n = draw[:, 0] < 0.5
        elsewhere_n = self.elsewhere(index_n, draw[:, 1])
        there_n = self.chunks[1][elsewhere_n]
        end_n = 1 + (draw[:, 2] * (there_n - 1)).astype(np.int64)  # what is taken of it, as long as there is room
        taken_n = np.minimum(end_n, self.length - 3 - cut_n)
        b_begin = np.where(other_n, self.chunks[0][elsewhere_n] + there_n - end_n, begin_n + cut_n)
        return (begin_n, cut_n), (b_begin, np.where(other_n, taken_n, size_n - cut_n)), other_n

    def elsewhere(self, index_n: np.ndarray, uniform_n: np.ndarray) -> np.ndarray:
        """A piece of another document, every one equally likely."""
        document = self.chunks[2]
        if document[0] == document[-1]:
            raise ValueError(
                f"{self.cache.task}/{self.cache.split} has one document of 2 tokens or more; NextSentence takes what does not "
                "follow from another one: use SentenceOrder"
            )
        first = np.searchsorted(document, document[index_n])
        own = np.searchsorted(document, document[index_n], side="right") - first
        chosen = (uniform_n * (len(document) - own)).astype(np.int64)
        return chosen + own * (chosen >= first)

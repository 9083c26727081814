"""BART's noisers (Lewis et al. 2020, arXiv:1910.13461, section 2.2), which compose: each changes what the one before left.

A noiser is `noiser(tokens_nW, count_n, draw, vocabulary) -> (tokens_nW, count_n)` on rows of `count_n` tokens, the rest 0;
none makes a row longer. `draw(width)` gives fresh random uint32 [n, width].
"""

import dataclasses
import itertools
import math
from collections.abc import Callable

import numpy as np

from t5x_like.data.noise import base as noise
from t5x_like.data.tokenizers import vocabularies

Draw = Callable[[int], np.ndarray]
LAST = np.uint32(2**32 - 1)  # after all keys of tokens
FIRST_PURPOSE = 1000  # noisers' draws have numbers from here on


def drawer(seed: int, epoch_n: np.ndarray, index_n: np.ndarray) -> Draw:
    """Draws for the rows of these keys; every call gives others."""
    purposes = itertools.count(FIRST_PURPOSE)
    return lambda width: noise.bits(seed, epoch_n, index_n, width, next(purposes))


def check_rate(rate: float, most: float = 1.0) -> None:
    if not 0 < rate <= most:
        raise ValueError(f"rate={rate} is not above 0 and at most {most}; BART's infilling uses 0.3")


def first(bits_nW: np.ndarray, places_n: np.ndarray, count_n: np.ndarray) -> np.ndarray:
    """bool [n, W]: `count_n` of the first `places_n` places, all choices equally likely."""
    keys_nW = np.where(np.arange(bits_nW.shape[1]) < places_n[:, None], noise.keys(bits_nW), LAST)
    last_n1 = np.take_along_axis(np.sort(keys_nW, axis=1), np.maximum(count_n - 1, 0)[:, None], axis=1)
    return (keys_nW <= last_n1) & (count_n > 0)[:, None]


def selected(bits_nW: np.ndarray, count_n: np.ndarray, rate: float) -> np.ndarray:
    """bool [n, W]: exactly round(rate * count) of every row's tokens, all choices equally likely."""
    return first(bits_nW, count_n, np.rint(rate * count_n).astype(np.int64))


@dataclasses.dataclass(frozen=True)
class TokenMasking:
    """`rate` of the tokens become the mask."""

    rate: float = 0.15

    def __post_init__(self):
        check_rate(self.rate)

    def __call__(self, tokens_nW, count_n, draw: Draw, vocabulary):
        chosen = selected(draw(tokens_nW.shape[1]), count_n, self.rate)
        return np.where(chosen, np.int32(vocabularies.mask_id(vocabulary)), tokens_nW), count_n


@dataclasses.dataclass(frozen=True)
class TokenDeletion:
    """`rate` of the tokens vanish: what is missing, and where, is to be found out."""

    rate: float = 0.15

    def __post_init__(self):
        check_rate(self.rate)

    def __call__(self, tokens_nW, count_n, draw: Draw, vocabulary):
        width = tokens_nW.shape[1]
        chosen = selected(draw(width), count_n, self.rate)
        return noise.compacted(tokens_nW, ~chosen & (np.arange(width) < count_n[:, None]), width)


@dataclasses.dataclass(frozen=True)
class TextInfilling:
    """Spans of Poisson(`mean_span`) tokens, together ceil(`rate` * count), become one mask each; an empty span puts one in.

    Spans are drawn until they are enough, the last one is cut; no two touch, and all places are equally likely.
    """

    rate: float = 0.3
    mean_span: float = 3.0

    def __post_init__(self):
        check_rate(self.rate, most=0.5)
        if not self.mean_span > 0:
            raise ValueError(f"mean_span={self.mean_span} is not above 0; BART uses 3")

    def __call__(self, tokens_nW, count_n, draw: Draw, vocabulary):
        rows, width = tokens_nW.shape
        hidden_n = np.ceil(self.rate * count_n - 1e-9).astype(np.int64)
        most = int(hidden_n.max(initial=0))
        lengths_nS, spans_n = filled_lengths(poisson(draw(most), self.mean_span), hidden_n)
        # A span's place is the gap before the k-th token that stays.
        opens = first(draw(width + 1), count_n - hidden_n + 1, spans_n)
        before = np.zeros((rows, width + 1), np.int32)
        before[opens] = lengths_nS[np.arange(most) < spans_n[:, None]]
        place = np.minimum(np.arange(width + 1) + np.cumsum(before, axis=1, dtype=np.int32), width - 1)
        kept = np.take_along_axis(tokens_nW, place, axis=1)
        stays = np.arange(width + 1) < (count_n - hidden_n)[:, None]
        mask = np.full_like(kept, vocabularies.mask_id(vocabulary))
        both = np.stack([mask, kept], axis=2), np.stack([opens, stays], axis=2)
        return noise.compacted(*(x.reshape(rows, -1) for x in both), width)


def poisson(bits_nS: np.ndarray, mean: float) -> np.ndarray:
    """Poisson(mean) by the inverse of its distribution, int64."""
    most = int(mean + 10 * math.sqrt(mean) + 10)
    logs = [k * math.log(mean) - mean - math.lgamma(k + 1) for k in range(most)]
    return np.searchsorted(np.cumsum(np.exp(logs)) * 2.0**32, bits_nS.astype(np.float64), side="right")


def filled_lengths(drawn_nS: np.ndarray, total_n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(lengths, spans): the first draws that together have `total_n`, the last one made to fit; at most total_n spans."""
    width = drawn_nS.shape[1]
    reached_nS = np.cumsum(drawn_nS, axis=1)
    before_nS = reached_nS - drawn_nS
    # Draws that are not enough (hardly ever) are made so by the last.
    last_n = np.minimum((reached_nS < total_n[:, None]).sum(axis=1), np.maximum(total_n - 1, 0))
    number = np.arange(width)
    lengths_nS = np.where(number == last_n[:, None], total_n[:, None] - before_nS, drawn_nS)
    return lengths_nS, np.where(total_n > 0, last_n + 1, 0)


@dataclasses.dataclass(frozen=True)
class SentencePermutation:
    """Sentences in random order. One ends with the last token of any of `ends` (texts), or at a token of `end_ids`."""

    ends: tuple[str, ...] = (".", "!", "?", "\n")
    end_ids: tuple[int, ...] = ()

    def end_ids_of(self, vocabulary) -> np.ndarray:
        """All ids at which a sentence ends, the end of a document being one."""
        encoded = [vocabulary.encode(text)[-1:] for text in self.ends]
        found = {*self.end_ids, *itertools.chain(*encoded)} - {vocabulary.unk, None}
        return np.array(sorted(found | ({vocabulary.eos} - {None})))

    def __call__(self, tokens_nW, count_n, draw: Draw, vocabulary):
        width = tokens_nW.shape[1]
        ends = np.isin(tokens_nW, self.end_ids_of(vocabulary))
        sentence_nW = np.cumsum(ends, axis=1) - ends
        keys_nW = np.take_along_axis(draw(width + 1), sentence_nW, axis=1)
        keys_nW = np.where(np.arange(width) < count_n[:, None], keys_nW, LAST).astype(np.int64)
        # Sentences that drew the same stay apart, and tokens in order: the low bits are the place.
        order = np.sort(keys_nW << 31 | np.arange(width), axis=1) & (2**31 - 1)
        return np.take_along_axis(tokens_nW, order, axis=1), count_n


@dataclasses.dataclass(frozen=True)
class DocumentRotation:
    """The text begins at a token drawn from all of it, what stood before follows at the end."""

    def __call__(self, tokens_nW, count_n, draw: Draw, vocabulary):
        column = np.arange(tokens_nW.shape[1])
        first_n = noise.below(draw(1)[:, 0], count_n)
        source = np.where(
            column < count_n[:, None], (column + first_n[:, None]) % np.maximum(count_n, 1)[:, None], column
        )
        return np.take_along_axis(tokens_nW, source, axis=1), count_n

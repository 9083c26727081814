"""BART's noisers (Lewis et al. 2020, arXiv:1910.13461, section 2.2), which compose: each changes the previous one's output.

A noiser is `noiser(tokens_nW, count_n, draw, vocabulary) -> (tokens_nW, count_n)` on rows of `count_n` tokens, padded with
0; none makes a row longer. Each `draw(width)` returns new random uint32 [n, width].
"""

import dataclasses
import itertools
import math
from collections.abc import Callable

import numpy as np

from t5x_like.data.noise import base as noise
from t5x_like.data.tokenizers import vocabularies
from t5x_like.types import Vocabulary

Draw = Callable[[int], np.ndarray]
Noised = tuple[np.ndarray, np.ndarray]  # tokens [n, W] and counts [n]
Noiser = Callable[[np.ndarray, np.ndarray, Draw, Vocabulary], Noised]
LAST = np.uint32(2**32 - 1)  # sorts after the keys of all tokens
FIRST_PURPOSE = 1000  # the purposes of noisers' draws start here


def make_draw(seed: int, epoch_n: np.ndarray, index_n: np.ndarray) -> Draw:
    """A `draw` for the rows of these keys; every call returns other numbers."""
    purposes = itertools.count(FIRST_PURPOSE)
    return lambda width: noise.random_bits(seed, epoch_n, index_n, width, next(purposes))


def check_rate(rate: float, most: float = 1.0) -> None:
    """Raises ValueError unless 0 < rate <= most."""
    if not 0 < rate <= most:
        raise ValueError(f"rate={rate} is not above 0 and at most {most}; BART's infilling uses 0.3")


def choose_places(bits_nW: np.ndarray, places_n: np.ndarray, count_n: np.ndarray) -> np.ndarray:
    """bool [n, W]: `count_n` of the first `places_n` places of every row, all choices equally likely."""
    keys_nW = np.where(np.arange(bits_nW.shape[1]) < places_n[:, None], noise.distinct_keys(bits_nW), LAST)
    last_n1 = np.take_along_axis(np.sort(keys_nW, axis=1), np.maximum(count_n - 1, 0)[:, None], axis=1)
    return (keys_nW <= last_n1) & (count_n > 0)[:, None]


def choose_share(bits_nW: np.ndarray, count_n: np.ndarray, rate: float) -> np.ndarray:
    """bool [n, W]: exactly round(rate * count) of every row's tokens, all choices equally likely."""
    return choose_places(bits_nW, count_n, np.rint(rate * count_n).astype(np.int64))


@dataclasses.dataclass(frozen=True)
class TokenMasking:
    """Replaces `rate` of the tokens by the mask."""

    rate: float = 0.15

    def __post_init__(self) -> None:
        check_rate(self.rate)

    def __call__(self, tokens_nW: np.ndarray, count_n: np.ndarray, draw: Draw, vocabulary: Vocabulary) -> Noised:
        chosen = choose_share(draw(tokens_nW.shape[1]), count_n, self.rate)
        return np.where(chosen, np.int32(vocabularies.mask_id(vocabulary)), tokens_nW), count_n


@dataclasses.dataclass(frozen=True)
class TokenDeletion:
    """Deletes `rate` of the tokens: the model has to find out which tokens are missing, and where."""

    rate: float = 0.15

    def __post_init__(self) -> None:
        check_rate(self.rate)

    def __call__(self, tokens_nW: np.ndarray, count_n: np.ndarray, draw: Draw, vocabulary: Vocabulary) -> Noised:
        width = tokens_nW.shape[1]
        chosen = choose_share(draw(width), count_n, self.rate)
        return noise.compact(tokens_nW, ~chosen & (np.arange(width) < count_n[:, None]), width)


@dataclasses.dataclass(frozen=True)
class TextInfilling:
    """Replaces spans of Poisson(`mean_span`) tokens, ceil(`rate` * count) in all, by one mask each; an empty span inserts one.

    Spans are drawn until they suffice, and the last one is cut; no two are adjacent, and all places are equally likely.
    """

    rate: float = 0.3
    mean_span: float = 3.0

    def __post_init__(self) -> None:
        check_rate(self.rate, most=0.5)
        if not self.mean_span > 0:
            raise ValueError(f"mean_span={self.mean_span} is not above 0; BART uses 3")

    def __call__(self, tokens_nW: np.ndarray, count_n: np.ndarray, draw: Draw, vocabulary: Vocabulary) -> Noised:
        rows, width = tokens_nW.shape
        hidden_n = np.ceil(self.rate * count_n - 1e-9).astype(np.int64)
        most = int(hidden_n.max(initial=0))
        lengths_nS, spans_n = fit_lengths(poisson(draw(most), self.mean_span), hidden_n)
        # A span's place is the gap before the k-th token that is kept.
        opens = choose_places(draw(width + 1), count_n - hidden_n + 1, spans_n)
        before = np.zeros((rows, width + 1), np.int32)
        before[opens] = lengths_nS[np.arange(most) < spans_n[:, None]]
        place = np.minimum(np.arange(width + 1) + np.cumsum(before, axis=1, dtype=np.int32), width - 1)
        kept = np.take_along_axis(tokens_nW, place, axis=1)
        stays = np.arange(width + 1) < (count_n - hidden_n)[:, None]
        mask = np.full_like(kept, vocabularies.mask_id(vocabulary))
        tokens, keep = np.stack([mask, kept], axis=2), np.stack([opens, stays], axis=2)
        return noise.compact(tokens.reshape(rows, -1), keep.reshape(rows, -1), width)


def poisson(bits_nS: np.ndarray, mean: float) -> np.ndarray:
    """Poisson(mean) samples by inverting the cumulative distribution, int64."""
    most = int(mean + 10 * math.sqrt(mean) + 10)
    logs = [k * math.log(mean) - mean - math.lgamma(k + 1) for k in range(most)]
    return np.searchsorted(np.cumsum(np.exp(logs)) * 2.0**32, bits_nS.astype(np.float64), side="right")


def fit_lengths(samples_nS: np.ndarray, total_n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(lengths, spans): the first samples that sum to `total_n`, with the last one adjusted; at most total_n spans."""
    width = samples_nS.shape[1]
    reached_nS = np.cumsum(samples_nS, axis=1)
    before_nS = reached_nS - samples_nS
    # If all samples together are too few (rare), the last one is enlarged.
    last_n = np.minimum((reached_nS < total_n[:, None]).sum(axis=1), np.maximum(total_n - 1, 0))
    number = np.arange(width)
    lengths_nS = np.where(number == last_n[:, None], total_n[:, None] - before_nS, samples_nS)
    return lengths_nS, np.where(total_n > 0, last_n + 1, 0)


@dataclasses.dataclass(frozen=True)
class SentencePermutation:
    """Shuffles the sentences. A sentence ends with the last token of any of `ends` (texts), or at a token of `end_ids`."""

    ends: tuple[str, ...] = (".", "!", "?", "\n")
    end_ids: tuple[int, ...] = ()

    def all_end_ids(self, vocabulary: Vocabulary) -> np.ndarray:
        """All ids that end a sentence, including the eos of a document."""
        encoded = [vocabulary.encode(text, literal=True)[-1:] for text in self.ends]
        ids = {*self.end_ids, *itertools.chain(*encoded)}
        ids.difference_update([] if vocabulary.unk is None else [vocabulary.unk])
        return np.array(sorted(ids.union([] if vocabulary.eos is None else [vocabulary.eos])))

    def __call__(self, tokens_nW: np.ndarray, count_n: np.ndarray, draw: Draw, vocabulary: Vocabulary) -> Noised:
        width = tokens_nW.shape[1]
        ends = np.isin(tokens_nW, self.all_end_ids(vocabulary))
        sentence_nW: np.ndarray = np.cumsum(ends, axis=1) - ends
        keys_nW = np.take_along_axis(draw(width + 1), sentence_nW, axis=1)
        keys_nW = np.where(np.arange(width) < count_n[:, None], keys_nW, LAST).astype(np.int64)
        # The low bits are the column: tokens keep their order, and sentences with equal random keys do not interleave.
        order = np.sort(keys_nW << 31 | np.arange(width), axis=1) & (2**31 - 1)
        return np.take_along_axis(tokens_nW, order, axis=1), count_n


@dataclasses.dataclass(frozen=True)
class DocumentRotation:
    """Rotates the text so that it begins at a uniformly drawn token."""

    def __call__(self, tokens_nW: np.ndarray, count_n: np.ndarray, draw: Draw, vocabulary: Vocabulary) -> Noised:
        column = np.arange(tokens_nW.shape[1])
        first_n = noise.integers_below(draw(1)[:, 0], count_n)
        source = np.where(
            column < count_n[:, None], (column + first_n[:, None]) % np.maximum(count_n, 1)[:, None], column
        )
        return np.take_along_axis(tokens_nW, source, axis=1), count_n

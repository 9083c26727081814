"""Rows of UL2's mixture of denoisers, for encoder-decoders and as prefix language model (Tay et al. 2022)."""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import numpy as np

from t5x_like.batches import Feature
from t5x_like.data.noise import base as noise
from t5x_like.data.noise import ul2
from t5x_like.data.rows.arrays import Batch, ended, ragged, ragged_targets
from t5x_like.data.rows.base import Texts, check_length
from t5x_like.data.tokenizers import vocabularies


@dataclasses.dataclass(frozen=True)
class Denoised(Texts):
    """What both kinds share: which denoiser a text gets and what that makes of it."""

    @functools.cached_property
    def mode_ids(self) -> np.ndarray:
        """The token of every denoiser's mode: as given, or the three lowest sentinels for R, S and X."""
        spans = max(denoiser.counts(self.text_length)[1] for denoiser in self.denoisers)
        lowest = self.vocabulary.first_sentinel - self.vocabulary.extra_ids + 1
        given = (lowest + 2, lowest + 1, lowest) if self.modes is None else self.modes
        needed = spans + (3 if self.modes is None else 0)
        if needed > self.vocabulary.extra_ids:
            raise ValueError(
                f"{spans} noise spans a row{' and 3 modes' if self.modes is None else ''} need {needed} sentinels, the "
                f"vocabulary has {self.vocabulary.extra_ids}; shorten the lengths or raise the denoisers' mean_span"
            )
        if len(given) != 3:
            raise ValueError(f"modes={self.modes} are not three ids; give those of R, S and X")
        return np.array([given[ul2.MODES.index(denoiser.mode)] for denoiser in self.denoisers], np.int32)

    def corrupted(self, index_n, epoch_n, seed: int, lengths: tuple[int, int]):
        """(mode token of every row, inputs, targets); the latter two as `noise_ul2.corrupted` gives them."""
        which_n = ul2.chosen(noise.uniform(seed, epoch_n, index_n, 1, purpose=10)[:, 0], self.denoisers)
        bits = noise.bits(seed, epoch_n, index_n, self.text_length, purpose=11)
        text = self.cache.tokens("targets"), index_n * self.text_length
        sentinel = self.vocabulary.first_sentinel
        return self.mode_ids[which_n], *ul2.corrupted(*text, bits, which_n, self.denoisers, sentinel, lengths)


@dataclasses.dataclass(frozen=True)
class MixtureOfDenoisers(Denoised):
    """Inputs are mode, corrupted text, end; targets are the hidden spans, end. Each row draws its denoiser anew every epoch."""

    inputs_length: int
    targets_length: int
    denoisers: tuple[ul2.Denoiser, ...] = ul2.PAPER
    modes: tuple[int, int, int] | None = None

    def __post_init__(self):
        check_length("inputs_length", self.inputs_length)
        check_length("targets_length", self.targets_length)

    @functools.cached_property
    def text_length(self) -> int:
        def fits(denoiser, length):
            inputs, targets = denoiser.sizes(length)
            return inputs + 2 <= self.inputs_length and targets + 1 <= self.targets_length  # mode and ends

        given = f"inputs_length={self.inputs_length} and targets_length={self.targets_length}"
        return longest_text(self.denoisers, fits, given)

    @property
    def lengths(self) -> dict[str, int]:
        return {"encoder": self.inputs_length, "decoder": self.targets_length}

    def fetch(self, index_n: np.ndarray, epoch_n: np.ndarray, seed: int) -> Batch:
        lengths = self.inputs_length, self.targets_length
        mode_n, inputs, targets = self.corrupted(index_n, epoch_n, seed, lengths)
        eos, start = vocabularies.end_id(self.vocabulary), vocabularies.start_id(self.vocabulary)
        shown, count_n = ended(*inputs, eos)
        shown = np.concatenate([mode_n[:, None], shown[:, :-1]], axis=1)
        return ragged("encoder", shown, count_n + 1) | ragged_targets(*ended(*targets, eos), start)


@dataclasses.dataclass(frozen=True)
class PrefixMixtureOfDenoisers(Denoised):
    """For decoders: mode, corrupted text, then the hidden spans and the end, which alone are targets, in one row."""

    length: int
    denoisers: tuple[ul2.Denoiser, ...] = ul2.PAPER
    modes: tuple[int, int, int] | None = None

    def __post_init__(self):
        check_length("length", self.length)

    @functools.cached_property
    def text_length(self) -> int:
        def fits(denoiser, length):
            # Every token is there once, every sentinel twice; then mode and end.
            return length + 2 * denoiser.counts(length)[1] + 2 <= self.length

        return longest_text(self.denoisers, fits, f"length={self.length}")

    @property
    def lengths(self) -> dict[str, int]:
        return {"decoder": self.length}

    @property
    def extra_features(self) -> Mapping[str, Feature]:
        return {"decoder_prefix": Feature((self.length,))}

    def fetch(self, index_n: np.ndarray, epoch_n: np.ndarray, seed: int) -> Batch:
        mode_n, (inputs, shown_n), hidden = self.corrupted(index_n, epoch_n, seed, (self.length, self.length))
        targets, count_n = ended(*hidden, vocabularies.end_id(self.vocabulary))
        both = np.concatenate([mode_n[:, None], inputs, targets], axis=1)
        column = np.arange(self.length)
        keep = np.concatenate([np.ones((len(both), 1), bool), column < shown_n[:, None], column < count_n[:, None]], 1)
        tokens, length_n = noise.compacted(both, keep, self.length)
        batch = ragged_targets(tokens, length_n, vocabularies.start_id(self.vocabulary))
        prefix_n = shown_n[:, None] + 2  # inputs that are shown: the start, the mode and the corrupted text
        real = batch["decoder_segment_ids"]
        batch["decoder_prefix"] = (column < prefix_n).astype(np.int32) * real
        batch["decoder_loss_weights"] = ((column >= prefix_n - 1) * real).astype(np.float32)
        return batch


def longest_text(denoisers, fits: Callable[[ul2.Denoiser, int], bool], given: str) -> int:
    """The longest text that fits, whichever denoiser it gets."""
    length = 1
    while all(fits(denoiser, length + 1) for denoiser in denoisers):
        length += 1
    if length < 2:
        raise ValueError(f"{given} leave no room for a corrupted text; raise them")
    return length

"""Rows of UL2's mixture of denoisers, for encoder-decoders and as a prefix language model (Tay et al. 2022)."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from t5x_like.batches import Feature
from t5x_like.data.noise import base as noise
from t5x_like.data.noise import ul2
from t5x_like.data.rows.arrays import Batch, append_eos, build_decoder, build_inputs
from t5x_like.data.rows.base import TextRows, check_length
from t5x_like.data.tokenizers import vocabularies


@dataclasses.dataclass(frozen=True)
class DenoiserRows(TextRows):
    """The base of both kinds: draws the denoiser of every text and applies it."""

    @property
    def denoisers(self) -> tuple[ul2.Denoiser, ...]:
        """The denoisers that are drawn from."""
        raise NotImplementedError

    @property
    def modes(self) -> tuple[int, int, int] | None:
        """The ids of modes R, S and X; None takes the three lowest sentinels."""
        raise NotImplementedError

    @functools.cached_property
    def mode_ids(self) -> np.ndarray:
        """The mode token of every denoiser, int32."""
        spans = max(denoiser.counts(self.text_length)[1] for denoiser in self.denoisers)
        lowest = self.vocabulary.first_sentinel - self.vocabulary.extra_ids + 1
        modes = (lowest + 2, lowest + 1, lowest) if self.modes is None else self.modes
        needed = spans + (3 if self.modes is None else 0)
        if needed > self.vocabulary.extra_ids:
            raise ValueError(
                f"{spans} noise spans per row{' and 3 modes' if self.modes is None else ''} need {needed} sentinels, the "
                f"vocabulary has {self.vocabulary.extra_ids}; shorten the lengths or raise the denoisers' mean_span"
            )
        if self.modes is None and self.vocabulary.bytes_per_token_V[lowest]:
            raise ValueError(
                f"modes=None takes the three lowest sentinels, but those of {self.vocabulary.fingerprint} are ids of text; give "
                "the ids of modes R, S and X"
            )
        if len(modes) != 3:
            raise ValueError(f"modes={self.modes} are not three ids; give those of R, S and X")
        return np.array([modes[ul2.MODES.index(denoiser.mode)] for denoiser in self.denoisers], np.int32)

    def corrupt(
        self, index_n: np.ndarray, epoch_n: np.ndarray, seed: int, lengths: tuple[int, int]
    ) -> tuple[np.ndarray, ul2.Side, ul2.Side]:
        """(mode token of every row, inputs, targets); see `noise.ul2.corrupt` for the latter two."""
        which_n = ul2.choose_denoisers(noise.uniform(seed, epoch_n, index_n, 1, purpose=10)[:, 0], self.denoisers)
        bits = noise.random_bits(seed, epoch_n, index_n, self.text_length, purpose=11)
        flat, begin_n = self.cache.tokens("targets"), index_n * self.text_length
        sentinel = self.vocabulary.first_sentinel
        return self.mode_ids[which_n], *ul2.corrupt(flat, begin_n, bits, which_n, self.denoisers, sentinel, lengths)


@dataclasses.dataclass(frozen=True)
class MixtureOfDenoisers(DenoiserRows):
    """Inputs are mode, corrupted text, eos; targets are the hidden spans, eos. Each row's denoiser is drawn every epoch."""

    inputs_length: int
    targets_length: int
    denoisers: tuple[ul2.Denoiser, ...] = ul2.PAPER
    modes: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        check_length("inputs_length", self.inputs_length)
        check_length("targets_length", self.targets_length)

    @functools.cached_property
    def text_length(self) -> int:
        def fits(denoiser: ul2.Denoiser, length: int) -> bool:
            inputs, targets = denoiser.sizes(length)
            return inputs + 2 <= self.inputs_length and targets + 1 <= self.targets_length  # mode and eos; eos

        options = f"inputs_length={self.inputs_length} and targets_length={self.targets_length}"
        return longest_text(self.denoisers, fits, options)

    @property
    def lengths(self) -> Mapping[str, int]:
        return {"encoder": self.inputs_length, "decoder": self.targets_length}

    def fetch(self, index_n: np.ndarray, epoch_n: np.ndarray, seed: int) -> Batch:
        lengths = self.inputs_length, self.targets_length
        mode_n, inputs, targets = self.corrupt(index_n, epoch_n, seed, lengths)
        eos, start = vocabularies.end_id(self.vocabulary), vocabularies.start_id(self.vocabulary)
        text, count_n = append_eos(*inputs, eos)
        tokens = np.concatenate([mode_n[:, None], text[:, :-1]], axis=1)
        return build_inputs("encoder", tokens, count_n + 1) | build_decoder(*append_eos(*targets, eos), start)


@dataclasses.dataclass(frozen=True)
class PrefixMixtureOfDenoisers(DenoiserRows):
    """For decoders: mode and corrupted text as a prefix, then the hidden spans and eos, which alone have a loss."""

    length: int
    denoisers: tuple[ul2.Denoiser, ...] = ul2.PAPER
    modes: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        check_length("length", self.length)

    @functools.cached_property
    def text_length(self) -> int:
        def fits(denoiser: ul2.Denoiser, length: int) -> bool:
            # Every token occurs once, every sentinel twice; then mode and eos.
            return length + 2 * denoiser.counts(length)[1] + 2 <= self.length

        return longest_text(self.denoisers, fits, f"length={self.length}")

    @property
    def lengths(self) -> Mapping[str, int]:
        return {"decoder": self.length}

    @property
    def extra_features(self) -> Mapping[str, Feature]:
        return {"decoder_prefix": Feature((self.length,), needed=True)}

    def fetch(self, index_n: np.ndarray, epoch_n: np.ndarray, seed: int) -> Batch:
        mode_n, (inputs, inputs_n), hidden = self.corrupt(index_n, epoch_n, seed, (self.length, self.length))
        targets, count_n = append_eos(*hidden, vocabularies.end_id(self.vocabulary))
        both = np.concatenate([mode_n[:, None], inputs, targets], axis=1)
        column = np.arange(self.length)
        keep = np.concatenate([np.ones((len(both), 1), bool), column < inputs_n[:, None], column < count_n[:, None]], 1)
        tokens, length_n = noise.compact(both, keep, self.length)
        batch = build_decoder(tokens, length_n, vocabularies.start_id(self.vocabulary))
        prefix_n = inputs_n[:, None] + 2  # inputs of the prefix: start, mode and corrupted text
        real = batch["decoder_segment_ids"]
        batch["decoder_prefix"] = (column < prefix_n).astype(np.int32) * real
        batch["decoder_loss_weights"] = ((column >= prefix_n - 1) * real).astype(np.float32)
        return batch


def longest_text(denoisers: Sequence[ul2.Denoiser], fits: Callable[[ul2.Denoiser, int], bool], options: str) -> int:
    """The length of the longest text that fits with every denoiser; `options` names the lengths in the error."""
    length = 1
    while all(fits(denoiser, length + 1) for denoiser in denoisers):
        length += 1
    if length < 2:
        raise ValueError(f"{options} leave no room for a corrupted text; raise them")
    return length

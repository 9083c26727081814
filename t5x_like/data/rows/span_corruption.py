"""Rows of T5's span corruption (Raffel et al. 2020)."""

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np

from t5x_like.data.noise import base as noise
from t5x_like.data.rows.arrays import Batch, append_eos, build_decoder, build_inputs
from t5x_like.data.rows.base import TextRows, check_length
from t5x_like.data.tokenizers import vocabularies


@dataclasses.dataclass(frozen=True)
class SpanCorruption(TextRows):
    """T5's objective on documents joined and cut so that the corrupted text fills both lengths."""

    inputs_length: int
    targets_length: int
    noise_density: float = 0.15
    mean_span_length: float = 3.0

    def __post_init__(self) -> None:
        check_length("inputs_length", self.inputs_length)
        check_length("targets_length", self.targets_length)
        if not 0 < self.noise_density < 1:
            raise ValueError(f"noise_density={self.noise_density} is not between 0 and 1; T5 uses 0.15")
        if self.mean_span_length < 1:
            raise ValueError(f"mean_span_length={self.mean_span_length} is less than one token; T5 uses 3")

    @functools.cached_property
    def text_length(self) -> int:
        """Tokens of text per row, before corruption."""
        return noise.text_length(self.inputs_length, self.targets_length, self.noise_density, self.mean_span_length)

    @property
    def lengths(self) -> Mapping[str, int]:
        return {"encoder": self.inputs_length, "decoder": self.targets_length}

    def fetch(self, index_n: np.ndarray, epoch_n: np.ndarray, seed: int) -> Batch:
        spans = noise.span_counts(self.text_length, self.noise_density, self.mean_span_length)[1]
        if spans > self.vocabulary.extra_ids:
            raise ValueError(
                f"{spans} noise spans per row need as many sentinels, the vocabulary has {self.vocabulary.extra_ids}; "
                "shorten inputs_length or raise mean_span_length"
            )
        length, lengths = self.text_length, (self.inputs_length, self.targets_length)
        bits = noise.random_bits(seed, epoch_n, index_n, length, purpose=2)
        cuts = noise.draw_spans(bits, self.noise_density, self.mean_span_length)
        sentinel, eos = self.vocabulary.first_sentinel, vocabularies.end_id(self.vocabulary)
        start, flat = vocabularies.start_id(self.vocabulary), self.cache.tokens("targets")
        inputs, targets = noise.corrupt(flat, index_n * length, *cuts, sentinel, lengths)
        inputs_size, targets_size = noise.corrupted_lengths(length, self.noise_density, self.mean_span_length)
        inputs, inputs_n = append_eos(inputs, np.full(len(index_n), inputs_size - 1), eos)
        targets, targets_n = append_eos(targets, np.full(len(index_n), targets_size - 1), eos)
        return build_inputs("encoder", inputs, inputs_n) | build_decoder(targets, targets_n, start)

"""Rows of BERT's masked language model, by tokens and by whole words (Devlin et al. 2019)."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from t5x_like.batches import Feature
from t5x_like.data.noise import words as noise_words
from t5x_like.data.rows.arrays import Batch, pieces
from t5x_like.data.rows.base import Joined


@dataclasses.dataclass(frozen=True)
class MaskedLM(Joined):
    """BERT's objective: a fresh 15% of the tokens in every epoch, masked 80/10/10."""

    mask_rate: float = 0.15
    word_start_V: ClassVar[np.ndarray | None] = None

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.mask_rate < 1:
            raise ValueError(f"mask_rate={self.mask_rate} is not between 0 and 1; BERT uses 0.15")

    @property
    def lengths(self) -> dict[str, int]:
        return {"encoder": self.length}

    @property
    def extra_features(self) -> Mapping[str, Feature]:
        return {"encoder_token_types": Feature((self.length,))}

    def fetch(self, index_n: np.ndarray, epoch_n: np.ndarray, seed: int) -> Batch:
        _, tokens, positions, segments = pieces(self.cache, self.length, index_n, start=0)
        keys = seed, epoch_n, index_n
        inputs, chosen = noise_words.masked(self.vocabulary, tokens, segments, keys, self.mask_rate, self.word_start_V)
        return {
            "encoder_input_tokens": inputs,
            "encoder_target_tokens": tokens,
            "encoder_positions": positions,
            "encoder_segment_ids": segments,
            "encoder_token_types": np.zeros_like(tokens),
            "encoder_loss_weights": chosen.astype(np.float32),
        }


@dataclasses.dataclass(frozen=True)
class WholeWordMaskedLM(MaskedLM):
    """As MaskedLM, but all tokens of a word are chosen together, each then masked 80/10/10 for itself."""

    @functools.cached_property
    def word_start_V(self) -> np.ndarray:
        return noise_words.word_starts(self.vocabulary)

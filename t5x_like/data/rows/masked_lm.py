"""Rows of BERT's masked language model, by tokens and by whole words (Devlin et al. 2019)."""

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np

from t5x_like.batches import Feature
from t5x_like.data.noise import words as noise_words
from t5x_like.data.rows.arrays import Batch, cut_documents
from t5x_like.data.rows.base import FullTextRows


@dataclasses.dataclass(frozen=True)
class MaskedLM(FullTextRows):
    """BERT's objective: 15% of the tokens, drawn again every epoch, are masked 80/10/10."""

    mask_rate: float = 0.15

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.mask_rate < 1:
            raise ValueError(f"mask_rate={self.mask_rate} is not between 0 and 1; BERT uses 0.15")

    @property
    def word_start_V(self) -> np.ndarray | None:
        """bool [V], tokens that begin a word; None if tokens are masked one by one."""
        return None

    @property
    def lengths(self) -> Mapping[str, int]:
        return {"encoder": self.length}

    @property
    def extra_features(self) -> Mapping[str, Feature]:
        return {"encoder_token_types": Feature((self.length,))}

    def fetch(self, index_n: np.ndarray, epoch_n: np.ndarray, seed: int) -> Batch:
        _, tokens, positions, segments = cut_documents(self.cache, self.length, index_n, start=0)
        keys = seed, epoch_n, index_n
        inputs, chosen = noise_words.mask_text(
            self.vocabulary, tokens, segments, keys, self.mask_rate, self.word_start_V
        )
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
    """As MaskedLM, but all tokens of a word are chosen together; each is then masked 80/10/10 on its own."""

    @functools.cached_property
    def word_start_V(self) -> np.ndarray:
        return noise_words.find_word_starts(self.vocabulary)

"""Rows of BART's denoising: a whole text from what the noisers left of it (Lewis et al. 2020)."""

import dataclasses
from typing import Any

import numpy as np

from t5x_like.data import noise_bart, vocabularies
from t5x_like.data.rows import Batch, Rows, check_length, ragged, ragged_targets, texts, whole_rows


@dataclasses.dataclass(frozen=True)
class Denoising(Rows):
    """Inputs are `length` - 1 tokens of text after all `noisers`, targets the text itself; both end with eos.

    BART was trained with sentence permutation, then text infilling.
    """

    length: int
    noisers: tuple[Any, ...] = (noise_bart.SentencePermutation(), noise_bart.TextInfilling())

    def __post_init__(self):
        check_length("length", self.length)
        if not self.noisers:
            raise ValueError("noisers=() leaves the text as it is; give at least one, such as noise_bart.TextInfilling")

    def __len__(self) -> int:
        return whole_rows(self.cache, self.length - 1)

    @property
    def lengths(self) -> dict[str, int]:
        return {"encoder": self.length, "decoder": self.length}

    def fetch(self, index_n: np.ndarray, epoch_n: np.ndarray, seed: int) -> Batch:
        text = texts(self.cache, self.length - 1, index_n)
        noised, count_n = text, np.full(len(text), self.length - 1)
        draw = noise_bart.drawer(seed, epoch_n, index_n)
        for noiser in self.noisers:
            noised, count_n = noiser(noised, count_n, draw, self.vocabulary)
        end = np.full((len(text), 1), vocabularies.end_id(self.vocabulary), np.int32)
        targets = np.concatenate([text, end], axis=1)
        inputs = np.concatenate([noised, np.zeros_like(end)], axis=1)
        np.put_along_axis(inputs, count_n[:, None], end, axis=1)
        start = vocabularies.start_id(self.vocabulary)
        whole_n = np.full(len(text), self.length)
        return ragged("encoder", inputs, count_n + 1) | ragged_targets(targets, whole_n, start)

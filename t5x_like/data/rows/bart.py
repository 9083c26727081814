"""Rows of BART's denoising: a whole text from what the noisers left of it (Lewis et al. 2020)."""

import dataclasses
from typing import Any

import numpy as np

from t5x_like.data.noise import bart
from t5x_like.data.rows.arrays import Batch, ended, ragged, ragged_targets, texts
from t5x_like.data.rows.base import Texts, check_length
from t5x_like.data.tokenizers import vocabularies


@dataclasses.dataclass(frozen=True)
class Denoising(Texts):
    """Inputs are `length` - 1 tokens of text after all `noisers`, targets the text itself; both end with eos.

    BART was trained with sentence permutation, then text infilling.
    """

    length: int
    noisers: tuple[Any, ...] = (bart.SentencePermutation(), bart.TextInfilling())

    def __post_init__(self):
        check_length("length", self.length)
        if not self.noisers:
            raise ValueError("noisers=() leaves the text as it is; give at least one, such as noise_bart.TextInfilling")

    @property
    def text_length(self) -> int:
        return self.length - 1

    @property
    def lengths(self) -> dict[str, int]:
        return {"encoder": self.length, "decoder": self.length}

    def fetch(self, index_n: np.ndarray, epoch_n: np.ndarray, seed: int) -> Batch:
        text = texts(self.cache, self.text_length, index_n)
        noised, count_n = text, np.full(len(text), self.text_length)
        draw = bart.drawer(seed, epoch_n, index_n)
        for noiser in self.noisers:
            noised, count_n = noiser(noised, count_n, draw, self.vocabulary)
        targets, inputs = (np.pad(side, ((0, 0), (0, 1))) for side in (text, noised))
        start, eos = vocabularies.start_id(self.vocabulary), vocabularies.end_id(self.vocabulary)
        targets[:, -1] = eos
        whole_n = np.full(len(text), self.length)
        return ragged("encoder", *ended(inputs, count_n, eos)) | ragged_targets(targets, whole_n, start)

"""Rows of BART's denoising: the decoder reconstructs a text from its noised version (Lewis et al. 2020)."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from t5x_like.data.noise import bart
from t5x_like.data.rows.arrays import Batch, append_eos, build_decoder, build_inputs, cut_texts
from t5x_like.data.rows.base import TextRows, check_length
from t5x_like.data.tokenizers import vocabularies


@dataclasses.dataclass(frozen=True)
class Denoising(TextRows):
    """Inputs are `length` - 1 tokens of text after all `noisers`, targets the text itself; both end with eos.

    BART was trained with sentence permutation followed by text infilling.
    """

    length: int
    noisers: tuple[bart.Noiser, ...] = (bart.SentencePermutation(), bart.TextInfilling())

    def __post_init__(self) -> None:
        check_length("length", self.length)
        if not self.noisers:
            raise ValueError("noisers=() leaves the text unchanged; give at least one, such as bart.TextInfilling")

    @property
    def text_length(self) -> int:
        return self.length - 1

    @property
    def lengths(self) -> Mapping[str, int]:
        return {"encoder": self.length, "decoder": self.length}

    def fetch(self, index_n: np.ndarray, epoch_n: np.ndarray, seed: int) -> Batch:
        text = cut_texts(self.cache, self.text_length, index_n)
        noised, count_n = text, np.full(len(text), self.text_length)
        draw = bart.make_draw(seed, epoch_n, index_n)
        for noiser in self.noisers:
            noised, count_n = noiser(noised, count_n, draw, self.vocabulary)
        targets, inputs = (np.pad(side, ((0, 0), (0, 1))) for side in (text, noised))
        start, eos = vocabularies.start_id(self.vocabulary), vocabularies.end_id(self.vocabulary)
        targets[:, -1] = eos
        full_n = np.full(len(text), self.length)
        return build_inputs("encoder", *append_eos(inputs, count_n, eos)) | build_decoder(targets, full_n, start)

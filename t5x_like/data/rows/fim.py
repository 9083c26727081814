"""Rows of causal language modelling in which some texts have their middle moved to the end (Bavarian et al. 2022)."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from t5x_like.data.noise import base as noise
from t5x_like.data.noise import fim
from t5x_like.data.rows.arrays import Batch, cut_documents
from t5x_like.data.rows.base import TextRows, check_length
from t5x_like.data.tokenizers import vocabularies


@dataclasses.dataclass(frozen=True)
class FillInTheMiddle(TextRows):
    """As CausalLM, but in `rate` of the rows, drawn every epoch, the longest text has its middle moved to its end.

    `spm_rate` of those show the suffix first. `special` are the ids of PRE, SUF and MID; None takes the first three
    sentinels. A row has `length` - 4 tokens of text, which leaves room for these three and an eos; the rest is padding.
    """

    length: int
    rate: float = 0.5
    spm_rate: float = 0.5
    special: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        check_length("length - 4", self.length - 4)
        for name in ("rate", "spm_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(
                    f"{name}={getattr(self, name)} is not in 0 .. 1; the paper uses 0.5 to 0.9, and 0.5 for SPM"
                )

    @property
    def text_length(self) -> int:
        return self.length - 4

    @property
    def lengths(self) -> Mapping[str, int]:
        return {"decoder": self.length}

    @property
    def special_ids(self) -> tuple[int, int, int]:
        """The ids of PRE, SUF and MID."""
        first, extra_ids = self.vocabulary.first_sentinel, self.vocabulary.extra_ids
        if self.special is None and extra_ids < 3:
            raise ValueError(
                f"the vocabulary {self.vocabulary.fingerprint} has extra_ids={extra_ids}; fill in the middle needs 3 sentinels, "
                "or special=(PRE, SUF, MID)"
            )
        if self.special is not None and len(self.special) != 3:
            raise ValueError(f"special={self.special} are not three ids; give PRE, SUF and MID")
        return (first, first - 1, first - 2) if self.special is None else self.special

    def fetch(self, index_n: np.ndarray, epoch_n: np.ndarray, seed: int) -> Batch:
        start, eos = vocabularies.start_id(self.vocabulary), vocabularies.end_id(self.vocabulary)
        before, text, positions, segments = cut_documents(self.cache, self.length - 4, index_n, start)
        begin_n, end_n = fim.find_longest_segment(positions)
        draw = noise.uniform(seed, epoch_n, index_n, 4, purpose=40)
        tokens, segments, kept, moved_n = fim.move_middle(
            text, segments, begin_n, end_n, draw, self.rate, self.spm_rate, self.special_ids, eos
        )
        targets, segments = tokens * kept, segments * kept
        inputs, first = np.zeros_like(targets), np.ones(kept.shape, bool)
        inputs[:, 1:], first[:, 1:] = targets[:, :-1], segments[:, 1:] != segments[:, :-1]
        inputs[first] = start
        # The first input of a row that begins inside a document is the preceding token, unless that text's middle is moved.
        inputs[:, 0] = np.where(moved_n & (begin_n == 0), start, before[:, 0])
        column = np.arange(self.length, dtype=np.int32)
        positions = column - np.maximum.accumulate(np.where(first, column, 0), axis=1)
        return {
            "decoder_input_tokens": inputs * kept,
            "decoder_target_tokens": targets,
            "decoder_positions": positions * kept,
            "decoder_segment_ids": segments,
            "decoder_loss_weights": kept.astype(np.float32),
        }

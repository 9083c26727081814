"""Rows that can only be learned in context: random tokens, then the same tokens again. No row ever occurs twice."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from t5x_like.batches import Feature
from t5x_like.data.cache.token_cache import TokenCache
from t5x_like.data.rows.arrays import Batch
from t5x_like.data.stream import GOLDEN, hash64
from t5x_like.data.tokenizers import vocabularies
from t5x_like.types import Vocabulary


@dataclasses.dataclass(frozen=True)
class RepeatedTokens:
    """A random text of `shortest` to `longest` tokens, repeated until `length` tokens are full (Olsson et al. 2022).

    Tokens are `symbols` equally likely ids. The text's length differs between rows, so that the next token is predictable
    from its context but not from a fixed distance. Rows of different `part` share no text: training and validation.
    `rows` is the number of rows per epoch; every epoch and seed has different ones.
    """

    length: int
    shortest: int
    longest: int
    symbols: int = 64
    part: int = 0
    rows: int = 2**16
    caches: ClassVar[tuple[TokenCache, ...]] = ()
    group: ClassVar[int] = 1
    extra_features: ClassVar[Mapping[str, Feature]] = {}

    def __post_init__(self) -> None:
        if not 2 <= self.shortest <= self.longest < self.length:
            raise ValueError(
                f"shortest={self.shortest}, longest={self.longest}, length={self.length}: a text has 2 tokens or more, and "
                "must be shorter than the row to repeat; need 2 <= shortest <= longest < length"
            )
        if not 2 <= self.symbols <= 256:
            raise ValueError(f"symbols={self.symbols}: tokens are bytes; use 2 to 256")
        if not 0 <= self.part < 2**16 or self.rows < 1:
            raise ValueError(f"part={self.part} and rows={self.rows}: need 0 <= part < 65536 and at least one row")

    @functools.cached_property
    def vocabulary(self) -> Vocabulary:
        return vocabularies.ByteVocabulary()

    @property
    def fingerprint(self) -> str:
        return repr(self)

    @property
    def report(self) -> dict[str, int]:
        """The number of rows; there is no cache."""
        return {"rows": len(self)}

    @property
    def lengths(self) -> Mapping[str, int]:
        return {"decoder": self.length}

    def __len__(self) -> int:
        return self.rows

    def periods(self, index_n: np.ndarray, epoch_n: np.ndarray, seed: int) -> np.ndarray:
        """The length of each row's text, int64 [n]."""
        random_n = self.random_numbers(index_n, epoch_n, seed, 1)[:, 0]
        return (random_n % np.uint64(self.longest - self.shortest + 1)).astype(np.int64) + self.shortest

    def random_numbers(self, index_n: np.ndarray, epoch_n: np.ndarray, seed: int, count: int) -> np.ndarray:
        """uint64 [n, count]: random numbers that depend on (part, seed, epoch, row) alone."""
        key_n = np.full(index_n.shape, seed * 2**16 + self.part & 2**64 - 1, np.uint64)
        for x_n in (epoch_n, index_n):
            key_n = hash64(key_n * GOLDEN + x_n.astype(np.uint64))
        return hash64(key_n[:, None] + np.arange(1, count + 1, dtype=np.uint64) * GOLDEN)

    def fetch(self, index_n: np.ndarray, epoch_n: np.ndarray, seed: int) -> Batch:
        period_n = self.periods(index_n, epoch_n, seed)
        numbers_nK = self.random_numbers(index_n, epoch_n, seed, self.longest + 1)[:, 1:]
        text_nK = (numbers_nK % np.uint64(self.symbols)).astype(np.int32) + vocabularies.UNK + 1
        place_L = np.arange(self.length)
        targets_nL = np.take_along_axis(text_nK, place_L % period_n[:, None], axis=1)
        inputs_nL = np.roll(targets_nL, 1, axis=1)
        inputs_nL[:, 0] = vocabularies.start_id(self.vocabulary)
        shape = targets_nL.shape
        return {
            "decoder_input_tokens": inputs_nL,
            "decoder_target_tokens": targets_nL,
            "decoder_positions": np.broadcast_to(place_L.astype(np.int32), shape).copy(),
            "decoder_segment_ids": np.ones(shape, np.int32),
            "decoder_loss_weights": np.ones(shape, np.float32),
        }

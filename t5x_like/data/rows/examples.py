"""Rows of complete examples, packed: inputs and targets for encoder-decoders, targets alone for decoders."""

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np

from t5x_like.data.cache.streaming_steps import keeps_eos
from t5x_like.data.rows import packing
from t5x_like.data.rows.arrays import Batch
from t5x_like.data.rows.base import Rows, check_length
from t5x_like.data.stream import permute
from t5x_like.data.tokenizers import vocabularies


@dataclasses.dataclass(frozen=True)
class PackedExamples(Rows):
    """Inputs and targets of complete examples, several per row; examples longer than a row are truncated, and counted.

    A truncated example ends with the end of sequence if its task has seqio's `append_eos_after_trim`.

    The packing is the same in every epoch; the order of the rows differs. Tasks without `inputs` give decoder-only rows.
    """

    inputs_length: int
    targets_length: int
    packing_seed: int = 0

    def __post_init__(self) -> None:
        check_length("inputs_length", self.inputs_length)
        check_length("targets_length", self.targets_length)

    @property
    def capacity(self) -> dict[str, int]:
        """Row length by feature of the task."""
        return {
            name: length
            for name, length in (("inputs", self.inputs_length), ("targets", self.targets_length))
            if name in self.cache.features
        }

    @functools.cached_property
    def full_lengths_NF(self) -> np.ndarray:
        """Tokens of every example before truncation."""
        return np.stack([np.diff(self.cache.offsets(name)) for name in self.capacity], axis=1)

    @functools.cached_property
    def lengths_NF(self) -> np.ndarray:
        """Tokens of every example after truncation."""
        return np.minimum(self.full_lengths_NF, list(self.capacity.values()))

    @functools.cached_property
    def is_cut_NF(self) -> np.ndarray:
        """Whether an example is truncated."""
        return self.full_lengths_NF > self.lengths_NF

    @property
    def task_features(self) -> tuple[str, ...]:
        return tuple(self.capacity)

    @functools.cached_property
    def used_tokens(self) -> int:
        return int(self.lengths_NF.sum())

    @functools.cached_property
    def fill(self) -> dict[str, float]:
        """Share of all positions of an epoch that are not padding, by side."""
        real = self.lengths_NF.sum(axis=0).tolist()
        return {
            side: count / (len(self) * length) for (side, length), count in zip(self.lengths.items(), real, strict=True)
        }

    @functools.cached_property
    def truncated_tokens(self) -> dict[str, int]:
        cut = (self.full_lengths_NF - self.lengths_NF).sum(axis=0)
        return dict(zip(self.capacity, cut.tolist(), strict=True))

    @functools.cached_property
    def packing(self) -> packing.Packing:
        count = len(self.lengths_NF)
        order = permute(np.arange(count), count, self.packing_seed, np.zeros(count, np.int64))
        return packing.pack_first_fit(self.lengths_NF, tuple(self.capacity.values()), order)

    def __len__(self) -> int:
        return len(self.packing)

    @property
    def lengths(self) -> Mapping[str, int]:
        sides = {"inputs": "encoder", "targets": "decoder"}
        return {sides[name]: length for name, length in self.capacity.items()}

    def fetch(self, index_n: np.ndarray, epoch_n: np.ndarray, seed: int) -> Batch:
        example_K, row_K, nth_K = self.packing.pieces(index_n)
        batch: Batch = {}
        for column, (feature, length) in enumerate(self.capacity.items()):
            tokens, positions, segments = packing.gather_pieces(
                self.cache.tokens(feature),
                self.cache.offsets(feature)[example_K],
                self.lengths_NF[example_K, column],
                (row_K, nth_K),
                (len(index_n), length),
            )
            first_K = np.flatnonzero((positions == 0) & (segments > 0))
            if keeps_eos(self.cache, feature):
                length_K, cut_K = self.lengths_NF[example_K, column], self.is_cut_NF[example_K, column]
                last_K = first_K + length_K[length_K > 0] - 1
                tokens.reshape(-1)[last_K[cut_K[length_K > 0]]] = vocabularies.end_id(self.vocabulary)
            if feature == "inputs":
                batch |= {
                    "encoder_input_tokens": tokens,
                    "encoder_positions": positions,
                    "encoder_segment_ids": segments,
                }
                continue
            shifted = np.empty_like(tokens)
            shifted[:, 1:] = tokens[:, :-1]
            shifted *= positions > 0
            shifted.reshape(-1)[first_K] = vocabularies.start_id(self.vocabulary)
            batch |= {
                "decoder_input_tokens": shifted,
                "decoder_target_tokens": tokens,
                "decoder_positions": positions,
                "decoder_segment_ids": segments,
                "decoder_loss_weights": (segments > 0).astype(np.float32),
            }
        return batch

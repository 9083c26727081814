"""Rows of language models on joined documents: causal, and with a bidirectional prefix."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from t5x_like.batches import Feature
from t5x_like.data.noise import base as noise
from t5x_like.data.rows.arrays import Batch, cut_documents, segment_sizes
from t5x_like.data.rows.base import FullTextRows
from t5x_like.data.tokenizers import vocabularies


@dataclasses.dataclass(frozen=True)
class CausalLM(FullTextRows):
    """Documents joined and cut into rows of `length` tokens; every token is a target."""

    @property
    def lengths(self) -> Mapping[str, int]:
        return {"decoder": self.length}

    def fetch(self, index_n: np.ndarray, epoch_n: np.ndarray, seed: int) -> Batch:
        start = vocabularies.start_id(self.vocabulary)
        inputs, targets, positions, segments = cut_documents(self.cache, self.length, index_n, start)
        return {
            "decoder_input_tokens": inputs,
            "decoder_target_tokens": targets,
            "decoder_positions": positions,
            "decoder_segment_ids": segments,
            "decoder_loss_weights": np.ones(targets.shape, np.float32),
        }


@dataclasses.dataclass(frozen=True)
class PrefixLM(CausalLM):
    """As CausalLM, but a random prefix of every segment is read bidirectionally and has no loss."""

    @property
    def extra_features(self) -> Mapping[str, Feature]:
        return {"decoder_prefix": Feature((self.length,), needed=True)}

    def fetch(self, index_n: np.ndarray, epoch_n: np.ndarray, seed: int) -> Batch:
        batch = super().fetch(index_n, epoch_n, seed)
        positions, segments = batch["decoder_positions"], batch["decoder_segment_ids"]
        most = int(segments.max(initial=0))
        size_nS = segment_sizes(segments)[:, 1 : most + 1]
        length_nS = 1 + noise.integers_below(
            noise.random_bits(seed, epoch_n, index_n, most, purpose=1), size_nS
        ).astype(np.int32)
        prefix_nL = length_nS.reshape(-1).take(segments + (np.arange(len(segments)) * most - 1)[:, None])
        # The target of the prefix's last input is the first token after the prefix, and the first with a loss.
        batch["decoder_prefix"] = (positions < prefix_nL).astype(np.int32)
        batch["decoder_loss_weights"] = (positions >= prefix_nL - 1).astype(np.float32)
        return batch

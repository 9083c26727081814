"""Masked language modelling (BERT): cross-entropy of the masked tokens under the encoder."""

import dataclasses

from t5x_like.objectives.lm import cross_entropy


@dataclasses.dataclass(frozen=True)
class MaskedLanguageModel:
    """As `lm.LanguageModel`, over the encoder's targets; the batch's weights are 1 where a token was masked."""

    z_loss: float = 0.0
    label_smoothing: float = 0.0
    chunk: int | None = None

    def __call__(self, apply, params, batch, rng=None):
        return cross_entropy(self, apply, params, batch, rng, "encoder")

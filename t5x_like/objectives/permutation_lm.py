"""Permutation language modelling (XLNet), for `t5x_like.models.architectures.TwoStream`."""

import dataclasses

from t5x_like.objectives.lm import cross_entropy


@dataclasses.dataclass(frozen=True)
class PermutationLanguageModel:
    """As `lm.LanguageModel`, over the encoder's targets: -log p(word | position, the words before it in the batch's order)."""

    z_loss: float = 0.0
    label_smoothing: float = 0.0
    chunk: int | None = None

    def __call__(self, apply, params, batch, rng=None):
        return cross_entropy(self, apply, params, batch, rng, "encoder")

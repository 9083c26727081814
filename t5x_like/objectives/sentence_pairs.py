"""Masked language modelling with one label per row: BERT's next sentence, ALBERT's sentence order."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from t5x_like.objectives.lm import combine, token_terms
from t5x_like.objectives.tokens import head_sums, hidden_states, sum_sown
from t5x_like.types import Apply, Metrics, Params


@dataclasses.dataclass(frozen=True)
class MaskedAndPaired:
    """The masked-token loss of `lm.LanguageModel`, plus `pair_weight` * sum_rows n_r (-log p(label_r)).

    n_r is the number of masked tokens of a row: the labels' cross-entropy is a mean over rows weighted by it, so that sums
    add up however a batch is split (Devlin et al. 2019 adds plain means). The model's pooler and classifier give p(label).

    Raises:
      ValueError: the model has no pooler or no classifier.
    """

    z_loss: float = 0.0
    label_smoothing: float = 0.0
    chunk: int | None = None
    pair_weight: float = 1.0
    side: ClassVar[str] = "encoder"
    needs: ClassVar[tuple[str, ...]] = ("tokens", "classes")
    labels: ClassVar[tuple[str, ...]] = ("encoder_labels",)

    def __call__(
        self, apply: Apply, params: Params, batch: Mapping[str, jax.Array], rng: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array, Metrics]:
        weights_BL = batch["encoder_loss_weights"]
        x_BLD, sown = hidden_states(apply, params, batch, rng)
        sums = head_sums(
            apply,
            params,
            x_BLD,
            batch,
            "encoder",
            token_terms(self.z_loss, self.label_smoothing, rng is None),
            self.chunk,
        )
        total, weight, metrics = combine(sums, sum_sown(sown, weights_BL), batch, "encoder")
        logits_BC = apply({"params": params}, x_BLD, method=pair_logits).astype(jnp.float32)
        label_B1, real_B = batch["encoder_labels"], (batch["encoder_segment_ids"][:, 0] > 0).astype(jnp.float32)
        loss_B = -jnp.take_along_axis(jax.nn.log_softmax(logits_BC), label_B1, axis=-1)[:, 0]
        correct_B = (jnp.argmax(logits_BC, axis=-1) == label_B1[:, 0]).astype(jnp.float32)
        for name, value_B in {"pair_loss": loss_B, "pair_accuracy": correct_B}.items():
            metrics[name] = (jnp.sum(value_B * real_B), jnp.sum(real_B))
        total += self.pair_weight * jnp.sum(loss_B * jnp.sum(weights_BL, axis=1))
        return total, weight, jax.lax.stop_gradient(metrics)


def pair_logits(model: nn.Module, x_BLD: jax.Array) -> jax.Array:
    """Computes `EncoderOnly.classify` [B, C] from hidden states.

    Raises:
      ValueError: the model has no pooler or no classifier.
    """
    if model.pooler is None or model.classifier is None:
        missing = "pooler" if model.pooler is None else "classifier"
        raise ValueError(f"EncoderOnly.{missing}=None: pairs need both; see gin_configs/objectives/next_sentence.gin")
    return model.classifier(model.pooler(x_BLD))

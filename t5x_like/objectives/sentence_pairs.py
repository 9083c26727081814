"""Masked language modelling with a label per row: BERT's next sentence, ALBERT's sentence order."""

import dataclasses

import jax
import jax.numpy as jnp

from t5x_like.objectives.lm import gathered, terms
from t5x_like.objectives.tokens import head_sums, hidden_states, row_sums


@dataclasses.dataclass(frozen=True)
class MaskedAndPaired:
    """As `masked_lm.MaskedLanguageModel`, plus `pair_weight` * sum_rows n_r (-log p(label_r)), n_r a row's masked tokens.

    So the labels' cross-entropy, a mean over rows by their masked tokens, is added to the tokens' (Devlin et al. 2019
    adds plain means); however a batch is split, the sums add up. The model's pooler and classifier give p(label).
    """

    z_loss: float = 0.0
    label_smoothing: float = 0.0
    chunk: int | None = None
    pair_weight: float = 1.0

    def __call__(self, apply, params, batch, rng=None):
        weights_BL = batch["encoder_loss_weights"]
        x_BLD, sown = hidden_states(apply, params, batch, rng)
        sums = head_sums(apply, params, x_BLD, batch, "encoder", terms(self, rng is None), self.chunk)
        total, weight, metrics = gathered(sums, row_sums(sown, weights_BL), batch, "encoder")
        logits_BC = apply({"params": params}, x_BLD, method=row_logits).astype(jnp.float32)
        label_B1, real_B = batch["encoder_labels"], (batch["encoder_segment_ids"][:, 0] > 0).astype(jnp.float32)
        loss_B = -jnp.take_along_axis(jax.nn.log_softmax(logits_BC), label_B1, axis=-1)[:, 0]
        right_B = (jnp.argmax(logits_BC, axis=-1) == label_B1[:, 0]).astype(jnp.float32)
        for name, value_B in {"pair_loss": loss_B, "pair_accuracy": right_B}.items():
            metrics[name] = (jnp.sum(value_B * real_B), jnp.sum(real_B))
        total += self.pair_weight * jnp.sum(loss_B * jnp.sum(weights_BL, axis=1))
        return total, weight, jax.lax.stop_gradient(metrics)


def row_logits(model, x_BLD: jax.Array) -> jax.Array:
    """What `EncoderOnly.classified` gives, of hidden states that are there already.

    Raises:
      ValueError: the model has no pooler or no classifier.
    """
    if model.pooler is None or model.classifier is None:
        missing = "pooler" if model.pooler is None else "classifier"
        raise ValueError(f"EncoderOnly.{missing}=None: pairs need both; see gin_configs/objectives/next_sentence.gin")
    return model.classifier(model.pooler(x_BLD))

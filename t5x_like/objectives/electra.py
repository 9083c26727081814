"""Replaced-token detection (Clark et al. 2020, arXiv:2003.10555), for `t5x_like.models.electra.Electra`."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from t5x_like.objectives.lm import combine, token_terms
from t5x_like.objectives.tokens import hidden_states, sum_sown
from t5x_like.types import Apply, Metrics, Params


@dataclasses.dataclass(frozen=True)
class ReplacedTokenDetection:
    """The generator's masked-LM loss, plus `weight` * sum_rows n_r mean_l BCE(detector_l, replaced_l).

    n_r is the number of masked tokens of a row, so that sums add up however a batch is split; the paper adds plain means,
    with weight 50. Masked tokens are replaced by samples from the generator, without gradient; `replaced` is where the sample
    differs from the original. In evaluation the samples are always the same.
    """

    weight: float = 50.0
    z_loss: float = 0.0
    label_smoothing: float = 0.0
    side: ClassVar[str] = "encoder"
    needs: ClassVar[tuple[str, ...]] = ("replaced",)
    labels: ClassVar[tuple[str, ...]] = ()

    def __call__(
        self, apply: Apply, params: Params, batch: Mapping[str, jax.Array], rng: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array, Metrics]:
        weights_BL, targets_BL = batch["encoder_loss_weights"], batch["encoder_target_tokens"]
        keys = (None, jax.random.key(0), None) if rng is None else jax.random.split(rng, 3)
        logits_BLV, sown = hidden_states(apply, params, batch, keys[0], method="generator_logits")
        values = token_terms(self.z_loss, self.label_smoothing, rng is None)(logits_BLV, targets_BL)
        sums = {name: jnp.sum(value_BL * weights_BL, axis=1) for name, value_BL in values.items()}
        total, weight, metrics = combine(sums, sum_sown(sown, weights_BL), batch, "encoder")

        tokens_BL = replace_masked(logits_BLV, batch, keys[1])
        fake_BL = (tokens_BL != targets_BL).astype(jnp.float32)
        scores_BL, sown = detect(apply, params, {**batch, "encoder_input_tokens": tokens_BL}, keys[2])
        real_BL = (batch["encoder_segment_ids"] > 0).astype(jnp.float32)
        # -log sigmoid of the logit with the label's sign.
        loss_BL = jax.nn.softplus(jnp.where(fake_BL > 0, -scores_BL, scores_BL)) * real_BL
        mean_B = jnp.sum(loss_BL, axis=1) / jnp.maximum(jnp.sum(real_BL, axis=1), 1.0)
        total += self.weight * jnp.sum(mean_B * jnp.sum(weights_BL, axis=1))
        total += sum(v[0] for name, v in sum_sown(sown, weights_BL).items() if name.startswith("losses/"))
        correct_BL = ((scores_BL > 0) == (fake_BL > 0)) * real_BL
        tokens = jnp.sum(real_BL)
        metrics |= {
            "detector_loss": (jnp.sum(loss_BL), tokens),
            "detector_accuracy": (jnp.sum(correct_BL), tokens),
            "replaced": (jnp.sum(fake_BL * weights_BL), weight),
        }
        return total, weight, jax.lax.stop_gradient(metrics)


def replace_masked(logits_BLV: jax.Array, batch: Mapping[str, jax.Array], key: jax.Array) -> jax.Array:
    """Returns the text [B, L] with a sample from the generator at every target token; no gradient flows through it."""
    sampled_BL = jax.random.categorical(key, jax.lax.stop_gradient(logits_BLV), axis=-1)
    masked_BL = batch["encoder_loss_weights"] > 0
    return jnp.where(masked_BL, sampled_BL, batch["encoder_target_tokens"]).astype(jnp.int32)


def detect(
    apply: Apply, params: Params, batch: Mapping[str, jax.Array], rng: jax.Array | None
) -> tuple[jax.Array, Any]:
    """Returns (the discriminator's logits [B, L] that a token was replaced, sown collections)."""
    x_BLD, sown = hidden_states(apply, params, batch, rng)
    return apply({"params": params}, x_BLD, method="logits")[..., 0], sown

"""Replaced-token detection (Clark et al. 2020, arXiv:2003.10555), for `t5x_like.models.electra.Electra`."""

import dataclasses

import jax
import jax.numpy as jnp

from t5x_like.objectives.lm import gathered, terms
from t5x_like.objectives.tokens import hidden_states, row_sums


@dataclasses.dataclass(frozen=True)
class ReplacedTokenDetection:
    """The generator's masked-LM loss, plus `weight` * sum_rows n_r mean_l BCE(detector_l, replaced_l).

    n_r are a row's masked tokens, so that the sums add up however a batch is split; the paper adds plain means, with
    weight 50. Masked tokens are replaced by a sample of the generator, through which no gradient goes; `replaced` is where
    the sample is not the original. In evaluation the samples are always the same.
    """

    weight: float = 50.0
    z_loss: float = 0.0
    label_smoothing: float = 0.0

    def __call__(self, apply, params, batch, rng=None):
        weights_BL, targets_BL = batch["encoder_loss_weights"], batch["encoder_target_tokens"]
        keys = (None, jax.random.key(0), None) if rng is None else jax.random.split(rng, 3)
        logits_BLV, sown = hidden_states(apply, params, batch, keys[0], method="generated")
        values = terms(self, rng is None)(logits_BLV, targets_BL)
        sums = {name: jnp.sum(value_BL * weights_BL, axis=1) for name, value_BL in values.items()}
        total, weight, metrics = gathered(sums, row_sums(sown, weights_BL), batch, "encoder")

        shown_BL = replaced(logits_BLV, batch, keys[1])
        fake_BL = (shown_BL != targets_BL).astype(jnp.float32)
        found_BL, found_sown = detected(apply, params, batch | {"encoder_input_tokens": shown_BL}, keys[2])
        real_BL = (batch["encoder_segment_ids"] > 0).astype(jnp.float32)
        # -log sigmoid of the logit with the label's sign.
        each_BL = jax.nn.softplus(jnp.where(fake_BL > 0, -found_BL, found_BL)) * real_BL
        mean_B = jnp.sum(each_BL, axis=1) / jnp.maximum(jnp.sum(real_BL, axis=1), 1.0)
        total += self.weight * jnp.sum(mean_B * jnp.sum(weights_BL, axis=1))
        total += sum(v[0] for name, v in row_sums(found_sown, weights_BL).items() if name.startswith("losses/"))
        right_BL = ((found_BL > 0) == (fake_BL > 0)) * real_BL
        tokens = jnp.sum(real_BL)
        metrics |= {
            "detector_loss": (jnp.sum(each_BL), tokens),
            "detector_accuracy": (jnp.sum(right_BL), tokens),
            "replaced": (jnp.sum(fake_BL * weights_BL), weight),
        }
        return total, weight, jax.lax.stop_gradient(metrics)


def replaced(logits_BLV: jax.Array, batch, key: jax.Array) -> jax.Array:
    """The text [B, L] with a sample of the generator at every token that counts; no gradient goes through it."""
    sampled_BL = jax.random.categorical(key, jax.lax.stop_gradient(logits_BLV), axis=-1)
    chosen_BL = batch["encoder_loss_weights"] > 0
    return jnp.where(chosen_BL, sampled_BL, batch["encoder_target_tokens"]).astype(jnp.int32)


def detected(apply, params, batch, rng):
    """(the discriminator's logits [B, L] that a token was replaced, what it sowed)."""
    x_BLD, sown = hidden_states(apply, params, batch, rng)
    return apply({"params": params}, x_BLD, method="logits")[..., 0], sown

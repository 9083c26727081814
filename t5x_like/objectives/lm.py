"""Cross-entropy of the next token: causal, prefix and sequence-to-sequence language models; the batch says which."""

import dataclasses

import jax
import jax.numpy as jnp

from t5x_like.objectives.tokens import token_logps, token_sums


@dataclasses.dataclass(frozen=True)
class LanguageModel:
    """sum of weight * (-(1 - s) log p(target) - s mean_v log p(v) + z * logsumexp^2) over the decoder's targets.

    s is `label_smoothing`, z is `z_loss` (PaLM: 1e-4). `chunk` positions of a row have logits at a time (None: all).
    Metric `loss` is the plain cross-entropy in nats per token; `accuracy` is added in evaluation.
    """

    z_loss: float = 0.0
    label_smoothing: float = 0.0
    chunk: int | None = None

    def __call__(self, apply, params, batch, rng=None):
        return cross_entropy(self, apply, params, batch, rng, "decoder")


def cross_entropy(options, apply, params, batch, rng, side: str):
    """The objective above on one side of the batch; `options` has z_loss, label_smoothing and chunk."""
    sums, sown = token_sums(apply, params, batch, rng, side, terms(options, rng is None), options.chunk)
    total, weight, metrics = gathered(sums, sown, batch, side)
    return total, weight, jax.lax.stop_gradient(metrics)


def terms(options, evaluating: bool):
    """What `token_sums` is to sum: the objective's `total` and what it is made of, by name."""

    def per_token(logits_BLV, targets_BL):
        logp_BL, lse_BL = token_logps(logits_BLV, targets_BL)
        values = {"loss": -logp_BL, "total": -logp_BL}
        if options.label_smoothing:
            uniform_BL = lse_BL - jnp.mean(logits_BLV, axis=-1)
            values["total"] += options.label_smoothing * (uniform_BL + logp_BL)
        if options.z_loss:
            values["z_loss"] = options.z_loss * jnp.square(lse_BL)
            values["total"] += values["z_loss"]
        if evaluating:
            values["accuracy"] = (jnp.argmax(logits_BLV, axis=-1) == targets_BL).astype(jnp.float32)
        return values

    return per_token


def gathered(sums, sown, batch, side: str):
    """(total, weight, metrics) of the rows' sums of `terms` on one side of the batch, and of what the model sowed.

    Rows of several tasks (`task_one_hot`) have metrics of each: `task_loss` [T], `task_rate`, the share of rows, and
    `task_tokens`, the share of target tokens.
    """
    weight_B = jnp.sum(batch[f"{side}_loss_weights"], axis=1)
    weight = jnp.sum(weight_B)
    total = jnp.sum(sums["total"])
    metrics = {name: (jnp.sum(value_B), weight) for name, value_B in sums.items() if name != "total"}
    for name, (value, layers) in sown.items():
        if name.startswith("losses/"):
            total += value
        metrics[name.split("/")[1]] = (value / layers, weight)
    if "task_one_hot" in batch:
        rows_BT = batch["task_one_hot"]
        weight_T, whole_T = weight_B @ rows_BT, jnp.ones(rows_BT.shape[1])
        metrics["task_loss"] = (sums["loss"] @ rows_BT, weight_T)
        metrics["task_rate"] = (jnp.sum(rows_BT, axis=0), rows_BT.shape[0] * whole_T)
        metrics["task_tokens"] = (weight_T, weight * whole_T)
    return total, weight, metrics

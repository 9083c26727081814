"""Cross-entropy of target tokens: causal, prefix, sequence-to-sequence, masked and permutation language models."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from t5x_like.objectives.tokens import PerToken, is_largest, token_logps, token_sums
from t5x_like.types import Apply, Metrics, Params


@dataclasses.dataclass(frozen=True)
class LanguageModel:
    """sum of weight * (-(1 - s) log p(target) - s mean_v log p(v) + z * logsumexp^2) over the targets of one side.

    s is `label_smoothing`, z is `z_loss` (PaLM: 1e-4). `chunk` is the number of positions per row whose logits are computed
    at a time (None: all). `side` is "decoder" (causal, prefix and sequence-to-sequence models) or "encoder" (BERT's masked
    and XLNet's permutation language models). What a target may see is up to the model and the batch.

    Metrics: `loss` is the plain cross-entropy in nats per token; `accuracy` is added in evaluation.
    """

    z_loss: float = 0.0
    label_smoothing: float = 0.0
    chunk: int | None = None
    side: str = "decoder"
    needs: ClassVar[tuple[str, ...]] = ("tokens",)
    labels: ClassVar[tuple[str, ...]] = ()

    def __call__(
        self, apply: Apply, params: Params, batch: Mapping[str, jax.Array], rng: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array, Metrics]:
        per_token = token_terms(self.z_loss, self.label_smoothing, evaluating=rng is None)
        sums, sown = token_sums(apply, params, batch, rng, self.side, per_token, self.chunk)
        total, weight, metrics = combine(sums, sown, batch, self.side)
        return total, weight, jax.lax.stop_gradient(metrics)


def token_terms(z_loss: float, label_smoothing: float, evaluating: bool) -> PerToken:
    """Returns the `per_token` function of `token_sums`: the loss of each token, `total`, and its terms, by name."""

    def per_token(logits_BLV: jax.Array, targets_BL: jax.Array) -> dict[str, jax.Array]:
        logp_BL, lse_BL = token_logps(logits_BLV, targets_BL)
        values = {"loss": -logp_BL, "total": -logp_BL}
        if label_smoothing:
            uniform_BL = lse_BL - jnp.mean(logits_BLV, axis=-1)
            values["total"] += label_smoothing * (uniform_BL + logp_BL)
        if z_loss:
            values["z_loss"] = z_loss * jnp.square(lse_BL)
            values["total"] += values["z_loss"]
        if evaluating:
            values["accuracy"] = is_largest(logits_BLV, targets_BL).astype(jnp.float32)
        return values

    return per_token


def combine(
    sums: Mapping[str, jax.Array], sown: Mapping[str, jax.Array], batch: Mapping[str, jax.Array], side: str
) -> tuple[jax.Array, jax.Array, dict[str, Any]]:
    """Combines row sums [B] of `token_terms` and sown values (see `sum_sown`) into (total, weight, metrics).

    If rows belong to several tasks (`task_one_hot`), metrics are added per task: `task_loss` [T], `task_rate`, the share of
    rows, and `task_tokens`, the share of target tokens.
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
        weight_T, ones_T = weight_B @ rows_BT, jnp.ones(rows_BT.shape[1])
        metrics["task_loss"] = (sums["loss"] @ rows_BT, weight_T)
        metrics["task_rate"] = (jnp.sum(rows_BT, axis=0), rows_BT.shape[0] * ones_T)
        metrics["task_tokens"] = (weight_T, weight * ones_T)
    return total, weight, metrics

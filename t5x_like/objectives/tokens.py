"""Log-probabilities of target tokens, which every token loss is computed from."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from t5x_like.types import Apply, Params

PerToken = Callable[[jax.Array, jax.Array], Mapping[str, jax.Array]]  # (logits_BLV, targets_BL) -> {name: [B, L]}


@jax.custom_vjp
def token_logps(logits_BLV: jax.Array, targets_BL: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns log softmax(logits)[target] and logsumexp(logits), float32 [B, L] each.

    The backward pass is written by hand: one pass over the logits instead of a scatter and two passes.
    """
    return _forward(logits_BLV, targets_BL)[0]


def _forward(
    logits_BLV: jax.Array, targets_BL: jax.Array
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array, jax.Array]]:
    lse_BL = jax.nn.logsumexp(logits_BLV, axis=-1)
    target_BL = jnp.take_along_axis(logits_BLV, targets_BL[..., None], axis=-1)[..., 0]
    return (target_BL - lse_BL, lse_BL), (logits_BLV, targets_BL, lse_BL)


def _backward(
    saved: tuple[jax.Array, jax.Array, jax.Array], cotangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, None]:
    """d logp_t / d logits = onehot(t) - p and d lse / d logits = p."""
    (logits_BLV, targets_BL, lse_BL), (logp_BL, norm_BL) = saved, cotangents
    probs_BLV = jnp.exp(logits_BLV - lse_BL[..., None])
    hit_BLV = jnp.arange(logits_BLV.shape[-1]) == targets_BL[..., None]
    return probs_BLV * (norm_BL - logp_BL)[..., None] + jnp.where(hit_BLV, logp_BL[..., None], 0.0), None


token_logps.defvjp(_forward, _backward)


def is_largest(logits_BLV: jax.Array, targets_BL: jax.Array) -> jax.Array:
    """Whether the target has the largest logit, the first of equal ones: argmax(logits) == target, bool [B, L].

    XLA:CPU compares with the target's logit several times as fast as it finds an argmax.
    """
    targets_BL1 = targets_BL[..., None]
    target_BL1 = jnp.take_along_axis(logits_BLV, targets_BL1, axis=-1)
    later_BLV = jnp.arange(logits_BLV.shape[-1]) >= targets_BL1
    return jnp.all((logits_BLV < target_BL1) | ((logits_BLV == target_BL1) & later_BLV), axis=-1)


def token_sums(
    apply: Apply,
    params: Params,
    batch: Mapping[str, jax.Array],
    rng: jax.Array | None,
    side: str,
    per_token: PerToken,
    chunk: int | None = None,
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """Runs the model and sums weight * per_token(logits_BLV, targets_BL)[name] over each row of one side.

    `chunk` is the number of positions per row whose logits are computed at a time. The backward pass recomputes them, so
    [B, L, V] is never materialised.

    Returns:
      (row sums [B] by name, sown values as `sum_sown` returns them).

    Raises:
      ValueError: `chunk` does not divide the length.
    """
    x_BLD, sown = hidden_states(apply, params, batch, rng)
    sums = head_sums(apply, params, x_BLD, batch, side, per_token, chunk)
    return sums, sum_sown(sown, batch[f"{side}_loss_weights"])


def hidden_states(
    apply: Apply, params: Params, batch: Mapping[str, jax.Array], rng: jax.Array | None, method: str = "hidden"
) -> tuple[jax.Array, Any]:
    """Runs `method` of the model and returns (its output, sown collections); training mode if `rng` is given."""
    rngs = None if rng is None else {"dropout": rng}
    return apply({"params": params}, batch, rng is not None, rngs=rngs, mutable=["losses", "metrics"], method=method)


def head_sums(
    apply: Apply,
    params: Params,
    x_BLD: jax.Array,
    batch: Mapping[str, jax.Array],
    side: str,
    per_token: PerToken,
    chunk: int | None,
) -> dict[str, jax.Array]:
    """Applies the head to hidden states and returns the row sums [B] of `token_sums`."""
    targets_BL, weights_BL = batch[f"{side}_target_tokens"], batch[f"{side}_loss_weights"]

    def sums(x_BLD: jax.Array, targets_BL: jax.Array, weights_BL: jax.Array) -> dict[str, jax.Array]:
        values = per_token(apply({"params": params}, x_BLD, method="logits"), targets_BL)
        return {name: jnp.sum(value_BL * weights_BL, axis=1) for name, value_BL in values.items()}

    if chunk is None or chunk >= targets_BL.shape[1]:
        return sums(x_BLD, targets_BL, weights_BL)
    if targets_BL.shape[1] % chunk:
        raise ValueError(f"chunk={chunk} does not divide the length {targets_BL.shape[1]}; use a divisor of it")
    chunks = jax.tree.map(lambda y: split_chunks(y, chunk), (x_BLD, targets_BL, weights_BL))
    sums_NB = jax.lax.map(lambda each: jax.checkpoint(sums)(*each), chunks)
    return jax.tree.map(lambda part_NB: jnp.sum(part_NB, axis=0), sums_NB)


def split_chunks(y_BL: jax.Array, chunk: int) -> jax.Array:
    """[B, L, ...] -> [L / chunk, B, chunk, ...]."""
    rows, length = y_BL.shape[:2]
    return jnp.moveaxis(y_BL.reshape(rows, length // chunk, chunk, *y_BL.shape[2:]), 1, 0)


def sum_sown(sown: Any, weights_BL: jax.Array) -> dict[str, jax.Array]:
    """Sums sown per-row values, weighted by the row's loss weight: {"collection/name": [sum over layers, layers]}."""
    weights_B = jnp.sum(weights_BL, axis=1)
    result: dict[str, jax.Array] = {}
    for path, value in jax.tree_util.tree_leaves_with_path(sown):
        collection, name = path[0].key, path[-2].key
        value_NB = value.reshape(-1, weights_B.shape[0])
        total = jnp.sum(value_NB * weights_B)
        layers = jnp.float32(value_NB.shape[0])
        before = result.get(f"{collection}/{name}", jnp.zeros(2))
        result[f"{collection}/{name}"] = before + jnp.stack([total, layers])
    return result

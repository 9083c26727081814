"""Log-probabilities of target tokens: the one primitive under every token loss."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp


@jax.custom_vjp
def token_logps(logits_BLV: jax.Array, targets_BL: jax.Array) -> tuple[jax.Array, jax.Array]:
    """log softmax(logits)[target] and logsumexp(logits), float32 [B, L] each.

    The backward pass is written out, so that it is one pass over the logits instead of a scatter and two passes.
    """
    return _forward(logits_BLV, targets_BL)[0]


def _forward(logits_BLV, targets_BL):
    lse_BL = jax.nn.logsumexp(logits_BLV, axis=-1)
    target_BL = jnp.take_along_axis(logits_BLV, targets_BL[..., None], axis=-1)[..., 0]
    return (target_BL - lse_BL, lse_BL), (logits_BLV, targets_BL, lse_BL)


def _backward(saved, cotangents):
    """d logp_t / d logits = onehot(t) - p and d lse / d logits = p."""
    (logits_BLV, targets_BL, lse_BL), (logp_BL, norm_BL) = saved, cotangents
    probs_BLV = jnp.exp(logits_BLV - lse_BL[..., None])
    hit_BLV = jnp.arange(logits_BLV.shape[-1]) == targets_BL[..., None]
    return probs_BLV * (norm_BL - logp_BL)[..., None] + jnp.where(hit_BLV, logp_BL[..., None], 0.0), None


token_logps.defvjp(_forward, _backward)


def token_sums(
    apply: Callable,
    params,
    batch: Mapping[str, jax.Array],
    rng: jax.Array | None,
    side: str,
    per_token: Callable[[jax.Array, jax.Array], Mapping[str, jax.Array]],
    chunk: int | None = None,
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """Each row's sums of weight * per_token(logits_BLV, targets_BL)[name] over one side, and the model's own losses.

    `chunk` is how many positions of a row have logits at a time; their logits are worked out again in the backward
    pass, so that [B, L, V] never exists. Returns (sums [B] by name, what the model sowed by collection/name, summed over
    layers and weighted by each row's weight).
    """
    x_BLD, sown = hidden_states(apply, params, batch, rng)
    sums = head_sums(apply, params, x_BLD, batch, side, per_token, chunk)
    return sums, row_sums(sown, batch[f"{side}_loss_weights"])


def hidden_states(apply: Callable, params, batch, rng: jax.Array | None, method: str = "hidden"):
    """(x_BLD, what the model sowed): the model up to its head, in training mode where there is an `rng`."""
    rngs = None if rng is None else {"dropout": rng}
    return apply({"params": params}, batch, rng is not None, rngs=rngs, mutable=["losses", "metrics"], method=method)


def head_sums(apply, params, x_BLD, batch, side: str, per_token, chunk: int | None) -> dict[str, jax.Array]:
    """The sums [B] that `token_sums` returns, from hidden states."""
    targets_BL, weights_BL = batch[f"{side}_target_tokens"], batch[f"{side}_loss_weights"]

    def sums(x_BLD, targets_BL, weights_BL):
        values = per_token(apply({"params": params}, x_BLD, method="logits"), targets_BL)
        return {name: jnp.sum(value_BL * weights_BL, axis=1) for name, value_BL in values.items()}

    if chunk is None or chunk >= targets_BL.shape[1]:
        return sums(x_BLD, targets_BL, weights_BL)
    if targets_BL.shape[1] % chunk:
        raise ValueError(f"chunk={chunk} does not divide the length {targets_BL.shape[1]}; use a divisor of it")
    pieces = jax.tree.map(lambda y: split(y, chunk), (x_BLD, targets_BL, weights_BL))
    each = jax.lax.map(lambda piece: jax.checkpoint(sums)(*piece), pieces)
    return jax.tree.map(lambda part_NB: jnp.sum(part_NB, axis=0), each)


def split(y_BL: jax.Array, chunk: int) -> jax.Array:
    """[B, L, ...] -> [L / chunk, B, chunk, ...]."""
    rows, length = y_BL.shape[:2]
    return jnp.moveaxis(y_BL.reshape(rows, length // chunk, chunk, *y_BL.shape[2:]), 1, 0)


def row_sums(sown, weights_BL: jax.Array) -> dict[str, jax.Array]:
    """Sown per-row values by `collection/name`, weighted by the row's loss weight; [0] sums over layers, [1] counts them."""
    weights_B, result = jnp.sum(weights_BL, axis=1), {}
    for path, value in jax.tree_util.tree_leaves_with_path(sown):
        collection, name = path[0].key, path[-2].key
        value_NB = value.reshape(-1, weights_B.shape[0])
        total = jnp.sum(value_NB * weights_B)
        layers = jnp.float32(value_NB.shape[0])
        before = result.get(f"{collection}/{name}", jnp.zeros(2))
        result[f"{collection}/{name}"] = before + jnp.stack([total, layers])
    return result

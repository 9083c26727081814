"""The train step of a decoder written by hand in JAX: a minimal program that does one thing, with the mathematics of t5x_like.

RMSNorm, rotary positions, causal self-attention, gated MLP, untied head, cross-entropy, AdamW; float32. Products are of two
matrices over all tokens T = B L: XLA:CPU contracts two dimensions of a weight's gradient at half the speed.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

HEAD_DIM, VOCAB = 64, 32128
LEARNING_RATE, B1, B2, EPSILON, WEIGHT_DECAY = 1e-3, 0.9, 0.95, 1e-8, 0.1

Batch = Mapping[str, Any]
Params = Mapping[str, Any]  # {"embed": [V, D], "head": [D, V], "norm": [D], "layers": [{"q": [D, HK], ...}, ...]}


def random_batch(rows: int, length: int) -> dict[str, np.ndarray]:
    """Returns a batch of random tokens."""
    tokens = np.random.default_rng(0).integers(3, VOCAB, (rows, length + 1), dtype=np.int32)
    return {
        "decoder_input_tokens": tokens[:, :-1],
        "decoder_target_tokens": tokens[:, 1:],
        "decoder_positions": np.broadcast_to(np.arange(length, dtype=np.int32), (rows, length)).copy(),
        "decoder_segment_ids": np.ones((rows, length), np.int32),
        "decoder_loss_weights": np.ones((rows, length), np.float32),
    }


def init_params(key: jax.Array, width: int, layers: int, heads: int, mlp_dim: int) -> dict[str, Any]:
    """Returns random parameters."""
    keys = iter(jax.random.split(key, 2 + 7 * layers))

    def matrix(rows: int, columns: int) -> jax.Array:
        return jax.random.normal(next(keys), (rows, columns)) / np.sqrt(rows)

    inner = heads * HEAD_DIM
    shapes = {"q": (width, inner), "k": (width, inner), "v": (width, inner), "o": (inner, width)}
    shapes |= {"gate": (width, mlp_dim), "up": (width, mlp_dim), "down": (mlp_dim, width)}

    def layer() -> dict[str, jax.Array]:
        return {name: matrix(*shape) for name, shape in shapes.items()} | {f"norm{i}": jnp.ones(width) for i in (1, 2)}

    table, head, norm = matrix(VOCAB, width), matrix(width, VOCAB), jnp.ones(width)
    return {"embed": table, "head": head, "norm": norm, "layers": [layer() for _ in range(layers)]}


def init_state(params: Params) -> tuple:
    """Returns the state of a run before its first step: parameters, both moments, and the number of steps."""
    zeros = jax.tree.map(jnp.zeros_like, params)
    return params, zeros, jax.tree.map(jnp.copy, zeros), 0.0


def rms_norm(x: jax.Array, scale: jax.Array) -> jax.Array:
    """RMSNorm."""
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6) * scale


def rotate(x_BHLK: jax.Array, positions_BL: jax.Array) -> jax.Array:
    """Rotary positions."""
    frequencies = 1e4 ** (-np.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    angle = (positions_BL[..., None] * frequencies)[:, None]
    a, b = jnp.split(x_BHLK, 2, -1)
    return jnp.concatenate([a * jnp.cos(angle) - b * jnp.sin(angle), b * jnp.cos(angle) + a * jnp.sin(angle)], -1)


def attend(p: Params, x_TD: jax.Array, positions_BL: jax.Array, mask_BLM: jax.Array) -> jax.Array:
    """Self-attention."""

    def split(y: jax.Array) -> jax.Array:
        return y.reshape(*positions_BL.shape, -1, HEAD_DIM).transpose(0, 2, 1, 3)

    q, k, v = (split(x_TD @ p[name]) for name in "qkv")
    q, k = rotate(q, positions_BL), rotate(k, positions_BL)
    scores = jnp.einsum("bhlk,bhmk->bhlm", q * HEAD_DIM**-0.5, k)
    probs = jax.nn.softmax(jnp.where(mask_BLM[:, None], scores, -1e30))
    return jnp.einsum("bhlm,bhmk->bhlk", probs, v).transpose(0, 2, 1, 3).reshape(len(x_TD), -1) @ p["o"]


def loss_fn(params: Params, batch: Batch) -> jax.Array:
    """The mean cross-entropy of the decoder."""
    segments, positions = batch["decoder_segment_ids"], batch["decoder_positions"]
    length = segments.shape[1]
    mask = jnp.tril(jnp.ones((length, length), bool)) & (segments[:, :, None] == segments[:, None])
    x = params["embed"][batch["decoder_input_tokens"].reshape(-1)]
    for p in params["layers"]:
        x += attend(p, rms_norm(x, p["norm1"]), positions, mask)
        h = rms_norm(x, p["norm2"])
        x += (jax.nn.silu(h @ p["gate"]) * (h @ p["up"])) @ p["down"]
    logits = rms_norm(x, params["norm"]) @ params["head"]
    target = jnp.take_along_axis(logits, batch["decoder_target_tokens"].reshape(-1, 1), -1)[:, 0]
    weights = batch["decoder_loss_weights"].reshape(-1)
    return jnp.sum((jax.nn.logsumexp(logits, -1) - target) * weights) / jnp.sum(weights)


def train_step(state: tuple, batch: Batch) -> tuple[tuple, jax.Array]:
    """One AdamW step, with weight decay on matrices only; returns the new state and the loss."""
    params, m, v, t = state
    loss, grads = jax.value_and_grad(loss_fn)(params, batch)
    t += 1
    m = jax.tree.map(lambda m, g: B1 * m + (1 - B1) * g, m, grads)
    v = jax.tree.map(lambda v, g: B2 * v + (1 - B2) * g * g, v, grads)

    def update(p, m, v):
        step = (m / (1 - B1**t)) / (jnp.sqrt(v / (1 - B2**t)) + EPSILON)
        return p - LEARNING_RATE * (step + (WEIGHT_DECAY * p if p.ndim > 1 else 0.0))

    return (jax.tree.map(update, params, m, v), m, v, t), loss

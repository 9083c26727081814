"""Attention kernels with one signature, `(q, k, v, bias, mask, scale, drop, cap) -> y_BLHK`.

Shapes: q_BLHK, k_BMGK, v_BMGK; query head h reads key/value head h // (H // G). bias_AHLM (or None) is added to the scaled
scores, mask_ALM is True where a query may see a key, `drop` (or None) is applied to the probabilities, and with a cap scores
s become cap * tanh(s / cap) (Gemma 2). A query that sees no key returns the mean of the values; such queries are padding,
which nothing reads.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from t5x_like.models.linear import add_shared

Drop = Callable[[jax.Array], jax.Array]

# Finite, so that the softmax of a query without visible keys is finite; far below any score.
MASKED = -0.7 * float(jnp.finfo(jnp.float32).max)


def reference(
    q_BLHK: jax.Array,
    k_BMGK: jax.Array,
    v_BMGK: jax.Array,
    bias_AHLM: jax.Array | None,
    mask_ALM: jax.Array,
    scale: float,
    drop: Drop | None = None,
    cap: float | None = None,
) -> jax.Array:
    """softmax(scale q k^T + bias) v with the scores in float32 (Vaswani et al. 2017; GQA: Ainslie et al. 2023).

    Heads come before positions, so that both products are plain batched matrix products. The division by the softmax's sum
    comes after the second product, where the array is smaller.
    """
    rows, length, heads, depth = q_BLHK.shape
    key_length, groups = k_BMGK.shape[1:3]
    shared = heads // groups
    q_BGNK = jnp.swapaxes(q_BLHK * scale, 1, 2).reshape(rows, groups, shared * length, depth)
    k_BGMK, v_BGMK = jnp.swapaxes(k_BMGK, 1, 2), jnp.swapaxes(v_BMGK, 1, 2)
    scores_BGNM = jnp.einsum("BGNK,BGMK->BGNM", q_BGNK, k_BGMK, preferred_element_type=jnp.float32)
    scores_BHLM = scores_BGNM.reshape(rows, heads, length, key_length)
    if cap is not None:
        scores_BHLM = cap * jnp.tanh(scores_BHLM / cap)
    if bias_AHLM is not None:
        bias_AHLM = bias_AHLM.astype(jnp.float32)
        shared_by_rows = bias_AHLM.shape == (1, *scores_BHLM.shape[1:])
        scores_BHLM = add_shared(scores_BHLM, bias_AHLM[0]) if shared_by_rows else scores_BHLM + bias_AHLM
    scores_BHLM = jnp.where(mask_ALM[:, None], scores_BHLM, MASKED)
    top_BHL1 = jax.lax.stop_gradient(jnp.max(scores_BHLM, axis=-1, keepdims=True))
    weights_BHLM = jnp.exp(scores_BHLM - top_BHL1)
    sum_BHL1 = jnp.sum(weights_BHLM, axis=-1, keepdims=True)
    weights_BHLM = weights_BHLM.astype(v_BMGK.dtype)
    if drop is not None:
        weights_BHLM = drop(weights_BHLM)
    weights_BGNM = weights_BHLM.reshape(rows, groups, shared * length, key_length)
    y_BGNK = jnp.einsum("BGNM,BGMK->BGNK", weights_BGNM, v_BGMK)
    y_BHLK = y_BGNK.reshape(rows, heads, length, depth) / sum_BHL1.astype(v_BMGK.dtype)
    return jnp.swapaxes(y_BHLK, 1, 2)


def cudnn(
    q_BLHK: jax.Array,
    k_BMGK: jax.Array,
    v_BMGK: jax.Array,
    bias_AHLM: jax.Array | None,
    mask_ALM: jax.Array,
    scale: float,
    drop: Drop | None = None,
    cap: float | None = None,
) -> jax.Array:
    """cuDNN's fused attention (GPU; bfloat16 or float16; no bias, dropout or cap); the mask covers packed rows and windows.

    Raises:
      ValueError: a bias, dropout or cap is given.
    """
    if bias_AHLM is not None or drop is not None or cap is not None:
        raise ValueError("kernels.cudnn takes no attention bias, dropout or soft cap; use kernels.reference")
    length, key_length = mask_ALM.shape[1:]
    mask_B1LM = jnp.broadcast_to(mask_ALM[:, None], (q_BLHK.shape[0], 1, length, key_length))
    # The backward pass with a mask needs even lengths; keys that are added are masked.
    mask_B1LM = jnp.pad(mask_B1LM, ((0, 0), (0, 0), (0, length % 2), (0, key_length % 2)))
    q_BLHK, k_BMGK, v_BMGK = (
        jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0))) for x in (q_BLHK, k_BMGK, v_BMGK)
    )
    y_BLHK = jax.nn.dot_product_attention(q_BLHK, k_BMGK, v_BMGK, mask=mask_B1LM, scale=scale, implementation="cudnn")
    return y_BLHK[:, :length]


def select(q_BLHK: jax.Array, bias_AHLM: jax.Array | None, drop: Drop | None, cap: float | None = None) -> Callable:
    """Returns `cudnn` if possible (GPU, 16-bit, no bias, dropout or cap, head dim a multiple of 8 up to 128), or `reference`."""
    length, depth = q_BLHK.shape[1], q_BLHK.shape[-1]
    bare = bias_AHLM is None and drop is None and cap is None
    plain = bare and length > 1 and depth % 8 == 0 and depth <= 128
    half = q_BLHK.dtype in (jnp.bfloat16, jnp.float16)
    return cudnn if plain and half and jax.default_backend() == "gpu" else reference


def automatic(
    q_BLHK: jax.Array,
    k_BMGK: jax.Array,
    v_BMGK: jax.Array,
    bias_AHLM: jax.Array | None,
    mask_ALM: jax.Array,
    scale: float,
    drop: Drop | None = None,
    cap: float | None = None,
) -> jax.Array:
    """The kernel that `select` returns."""
    kernel = select(q_BLHK, bias_AHLM, drop, cap)
    return kernel(q_BLHK, k_BMGK, v_BMGK, bias_AHLM, mask_ALM, scale, drop, cap)

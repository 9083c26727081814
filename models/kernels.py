"""Ways to work out attention: one signature, `(q, k, v, bias, mask, scale, drop, cap) -> y_BLHK`.

q_BLHK, k_BMGK, v_BMGK; query head h reads key/value head h // (H // G). bias_AHLM (or None) is added to the scaled
scores, mask_ALM is True where a query may see a key, `drop` is applied to the probabilities (or None), and scores s
become cap * tanh(s / cap) where there is a cap (Gemma 2). A query that sees no key gets the mean of the values; such
rows are padding, which nothing reads.
"""

import jax
import jax.numpy as jnp

# Finite, so that a row without any visible key stays finite; far below any score.
MASKED = -0.7 * float(jnp.finfo(jnp.float32).max)


def reference(q_BLHK, k_BMGK, v_BMGK, bias_AHLM, mask_ALM, scale, drop=None, cap=None):
    """softmax(scale q k^T + bias) v with the scores in float32 (Vaswani et al. 2017; GQA: Ainslie et al. 2023).

    Heads come before positions, so that both products are plain batched matrix products, and the division by the
    softmax's sum comes after the second one, where there is less to divide.
    """
    rows, length, heads, depth = q_BLHK.shape
    slots, groups = k_BMGK.shape[1:3]
    shared = heads // groups
    q_BGNK = jnp.swapaxes(q_BLHK * scale, 1, 2).reshape(rows, groups, shared * length, depth)
    k_BGMK, v_BGMK = jnp.swapaxes(k_BMGK, 1, 2), jnp.swapaxes(v_BMGK, 1, 2)
    scores_BGNM = jnp.einsum("BGNK,BGMK->BGNM", q_BGNK, k_BGMK, preferred_element_type=jnp.float32)
    scores_BHLM = scores_BGNM.reshape(rows, heads, length, slots)
    if cap is not None:
        scores_BHLM = cap * jnp.tanh(scores_BHLM / cap)
    if bias_AHLM is not None:
        scores_BHLM += bias_AHLM.astype(jnp.float32)
    scores_BHLM = jnp.where(mask_ALM[:, None], scores_BHLM, MASKED)
    top_BHL1 = jax.lax.stop_gradient(jnp.max(scores_BHLM, axis=-1, keepdims=True))
    weights_BHLM = jnp.exp(scores_BHLM - top_BHL1)
    sum_BHL1 = jnp.sum(weights_BHLM, axis=-1, keepdims=True)
    weights_BHLM = weights_BHLM.astype(v_BMGK.dtype)
    if drop is not None:
        weights_BHLM = drop(weights_BHLM)
    weights_BGNM = weights_BHLM.reshape(rows, groups, shared * length, slots)
    y_BGNK = jnp.einsum("BGNM,BGMK->BGNK", weights_BGNM, v_BGMK)
    y_BHLK = y_BGNK.reshape(rows, heads, length, depth) / sum_BHL1.astype(v_BMGK.dtype)
    return jnp.swapaxes(y_BHLK, 1, 2)


def cudnn(q_BLHK, k_BMGK, v_BMGK, bias_AHLM, mask_ALM, scale, drop=None, cap=None):
    """cuDNN's fused attention (GPU; bfloat16 or float16; no bias, dropout or cap), packed rows and windows by mask."""
    if bias_AHLM is not None or drop is not None or cap is not None:
        raise ValueError("kernels.cudnn takes no attention bias, dropout or soft cap; use kernels.reference")
    mask_B1LM = jnp.broadcast_to(mask_ALM[:, None], (q_BLHK.shape[0], 1, *mask_ALM.shape[1:]))
    return jax.nn.dot_product_attention(q_BLHK, k_BMGK, v_BMGK, mask=mask_B1LM, scale=scale, implementation="cudnn")


def chosen(q_BLHK, bias_AHLM, drop, cap=None):
    """cuDNN where it applies (GPU, 16-bit, no bias, dropout or cap, head dim a multiple of 8 up to 128), or the reference."""
    length, depth = q_BLHK.shape[1], q_BLHK.shape[-1]
    bare = bias_AHLM is None and drop is None and cap is None
    plain = bare and length > 1 and depth % 8 == 0 and depth <= 128
    half = q_BLHK.dtype in (jnp.bfloat16, jnp.float16)
    return cudnn if plain and half and jax.default_backend() == "gpu" else reference


def automatic(q_BLHK, k_BMGK, v_BMGK, bias_AHLM, mask_ALM, scale, drop=None, cap=None):
    """The kernel that `chosen` names."""
    kernel = chosen(q_BLHK, bias_AHLM, drop, cap)
    return kernel(q_BLHK, k_BMGK, v_BMGK, bias_AHLM, mask_ALM, scale, drop, cap)

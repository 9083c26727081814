"""Ways to work out attention: one signature, `(q, k, v, bias, mask, scale, drop) -> y_BLHK`.

q_BLHK, k_BMGK, v_BMGK; query head h reads key/value head h // (H // G). bias_AHLM (or None) is added to the scaled
scores, mask_ALM is True where a query may see a key, `drop` is applied to the probabilities (or None). A query that
sees no key gets the mean of the values; such rows are padding, which nothing reads.
"""

import jax
import jax.numpy as jnp

# Finite, so that a row without any visible key stays finite; far below any score.
MASKED = -0.7 * float(jnp.finfo(jnp.float32).max)


def reference(q_BLHK, k_BMGK, v_BMGK, bias_AHLM, mask_ALM, scale, drop=None):
    """softmax(scale q k^T + bias) v with the scores in float32 (Vaswani et al. 2017; GQA: Ainslie et al. 2023)."""
    rows, length, heads, depth = q_BLHK.shape
    groups = k_BMGK.shape[2]
    q_BLGRK = (q_BLHK * scale).reshape(rows, length, groups, heads // groups, depth)
    scores_BGRLM = jnp.einsum(
        "BLGRK,BMGK->BGRLM", q_BLGRK, k_BMGK, preferred_element_type=jnp.float32
    )
    if bias_AHLM is not None:
        split = (bias_AHLM.shape[0], groups, heads // groups, *bias_AHLM.shape[2:])
        scores_BGRLM += bias_AHLM.reshape(split).astype(jnp.float32)
    scores_BGRLM = jnp.where(mask_ALM[:, None, None], scores_BGRLM, MASKED)
    probs_BGRLM = jax.nn.softmax(scores_BGRLM, axis=-1).astype(v_BMGK.dtype)
    if drop is not None:
        probs_BGRLM = drop(probs_BGRLM)
    return jnp.einsum("BGRLM,BMGK->BLGRK", probs_BGRLM, v_BMGK).reshape(q_BLHK.shape)


def cudnn(q_BLHK, k_BMGK, v_BMGK, bias_AHLM, mask_ALM, scale, drop=None):
    """cuDNN's fused attention (GPU; bfloat16 or float16; no learned bias, no dropout), packed rows by mask."""
    if bias_AHLM is not None or drop is not None:
        raise ValueError("kernels.cudnn takes no attention bias and no attention dropout; use kernels.reference")
    mask_B1LM = jnp.broadcast_to(mask_ALM[:, None], (q_BLHK.shape[0], 1, *mask_ALM.shape[1:]))
    return jax.nn.dot_product_attention(
        q_BLHK, k_BMGK, v_BMGK, mask=mask_B1LM, scale=scale, implementation="cudnn"
    )


def automatic(q_BLHK, k_BMGK, v_BMGK, bias_AHLM, mask_ALM, scale, drop=None):
    """cuDNN where it applies (GPU, 16-bit, no bias, no dropout, head dim a multiple of 8 up to 128), else reference."""
    fits = (
        jax.default_backend() == "gpu"
        and q_BLHK.dtype in (jnp.bfloat16, jnp.float16)
        and bias_AHLM is None
        and drop is None
        and q_BLHK.shape[-1] % 8 == 0
        and q_BLHK.shape[-1] <= 128
        and q_BLHK.shape[1] > 1
    )
    kernel = cudnn if fits else reference
    return kernel(q_BLHK, k_BMGK, v_BMGK, bias_AHLM, mask_ALM, scale, drop)

"""Attention kernels with one signature, `(q, k, v, bias, mask, scale, drop, cap, causal) -> y_BLHK`.

Shapes: q_BLHK, k_BMGK, v_BMGK; query head h reads key/value head h // (H // G). bias_AHLM (or None) is added to the scaled
scores, mask_ALM is True where a query may see a key, `drop` (or None) is applied to the probabilities, and with a cap scores
s become cap * tanh(s / cap) (Gemma 2). causal_BL, or None, tells a kernel what the mask says: a query sees the keys of its
segment up to itself, and these are the segments. A query that sees no key is padding: nothing reads its output, which is finite.
"""

import dataclasses
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
    causal_BL: jax.Array | None = None,
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
    y_BHLK = y_BGNK.reshape(rows, heads, length, v_BGMK.shape[-1]) / sum_BHL1.astype(v_BMGK.dtype)
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
    causal_BL: jax.Array | None = None,
) -> jax.Array:
    """cuDNN's fused attention (NVIDIA GPU; 16 bits; no bias, dropout or cap); the mask covers packed rows and windows.

    Raises:
      ValueError: a bias, dropout or cap is given.
    """
    if bias_AHLM is not None or drop is not None or cap is not None:
        raise ValueError("kernels.cudnn takes no attention bias, dropout or soft cap; use kernels.reference")
    # The backward pass needs even lengths; no query sees the keys that are added.
    length, mask_ALM = mask_ALM.shape[1], pad_to_even(mask_ALM, 1, 2)
    q_BLHK, k_BMGK, v_BMGK = (pad_to_even(x, 1) for x in (q_BLHK, k_BMGK, v_BMGK))
    mask_B1LM = jnp.broadcast_to(mask_ALM[:, None], (q_BLHK.shape[0], 1, *mask_ALM.shape[1:]))
    # It skips keys after the query if it is told that they are masked.
    causal = causal_BL is not None
    y_BLHK = jax.nn.dot_product_attention(
        q_BLHK, k_BMGK, v_BMGK, mask=mask_B1LM, scale=scale, is_causal=causal, implementation="cudnn"
    )
    return y_BLHK[:, :length]


@dataclasses.dataclass(frozen=True)
class Packed:
    """cuDNN's kernel for packed causal rows on Hopper and later GPUs; elsewhere, and for other masks, `automatic`.

    It skips all that a query does not see, and stores no mask. A row may have `most_segments` segments, padding included: all
    outputs of a row with more are NaN. Its time and memory grow with that number: float32 [B, most_segments, H, L] is stored.
    """

    most_segments: int = 8

    def __call__(
        self,
        q_BLHK: jax.Array,
        k_BMGK: jax.Array,
        v_BMGK: jax.Array,
        bias_AHLM: jax.Array | None,
        mask_ALM: jax.Array,
        scale: float,
        drop: Drop | None = None,
        cap: float | None = None,
        causal_BL: jax.Array | None = None,
    ) -> jax.Array:
        if causal_BL is None or compute_capability() < (9, 0) or select(q_BLHK, bias_AHLM, drop, cap) is reference:
            return automatic(q_BLHK, k_BMGK, v_BMGK, bias_AHLM, mask_ALM, scale, drop, cap, causal_BL)
        length = q_BLHK.shape[1]
        # With room for one segment JAX would not pass the offsets.
        q_BLHK, k_BMGK, v_BMGK = (pad_to_even(x, 1) for x in (q_BLHK, k_BMGK, v_BMGK))
        sizes_BS, starts_BS, fits_B = find_segments(pad_to_even(causal_BL, 1), max(self.most_segments, 2))
        y_BLHK = attend_to_segments(q_BLHK, k_BMGK, v_BMGK, sizes_BS, starts_BS, scale)
        return jnp.where(fits_B[:, None, None, None], y_BLHK, jnp.nan)[:, :length]


def attend_to_segments(
    q_BLHK: jax.Array, k_BLGK: jax.Array, v_BLGK: jax.Array, sizes_BS: jax.Array, starts_BS: jax.Array, scale: float
) -> jax.Array:
    """Calls cuDNN's kernel for packed rows with the segments that `find_segments` returns."""
    # JAX has no public function that passes the segments' offsets.
    from jax._src.cudnn.fused_attention_stablehlo import MaskType, dot_product_attention

    offsets_BS = jnp.pad(starts_BS, ((0, 0), (0, 1)), constant_values=-1)
    segments = sizes_BS, sizes_BS, offsets_BS, offsets_BS  # of queries and of keys
    causal = MaskType.PADDING_CAUSAL
    return dot_product_attention(q_BLHK, k_BLGK, v_BLGK, None, None, *segments, scale=scale, mask_type=causal)


def pad_to_even(x: jax.Array, *axes: int) -> jax.Array:
    """Appends a zero to `axes` of odd length."""
    return jnp.pad(x, [(0, size % 2 if axis in axes else 0) for axis, size in enumerate(x.shape)])


def find_segments(segments_BL: jax.Array, most: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the sizes and starts, int32 [B, most], of a row's segments, filled with -1, and whether it has no more: [B].

    A segment is a run of equal numbers; padding is one, so that every token belongs to a segment.
    """
    changes_BL = segments_BL[:, 1:] != segments_BL[:, :-1]
    run_BL = jnp.cumsum(jnp.pad(changes_BL, ((0, 0), (1, 0))), axis=1, dtype=jnp.int32)
    sizes_BS = jnp.sum(run_BL[:, :, None] == jnp.arange(most), axis=1, dtype=jnp.int32)
    starts_BS = jnp.cumsum(sizes_BS, axis=1, dtype=jnp.int32) - sizes_BS
    there_BS = sizes_BS > 0
    return jnp.where(there_BS, sizes_BS, -1), jnp.where(there_BS, starts_BS, -1), run_BL[:, -1] < most


def compute_capability() -> tuple[int, int]:
    """Of the NVIDIA GPU that this process computes on: (8, 0) is Ampere, (9, 0) Hopper; (0, 0) on anything else."""
    device = jax.local_devices()[0]
    major, point, minor = getattr(device, "compute_capability", "").partition(".")
    return (int(major), int(minor)) if point else (0, 0)


def select(q_BLHK: jax.Array, bias_AHLM: jax.Array | None, drop: Drop | None, cap: float | None = None) -> Callable:
    """Returns `cudnn` if it can compute this, or `reference`.

    It can on NVIDIA GPUs since Ampere, in 16 bits, without bias, dropout and cap, if the head dim is a multiple of 8 up to 128.
    """
    length, depth = q_BLHK.shape[1], q_BLHK.shape[-1]
    bare = bias_AHLM is None and drop is None and cap is None
    plain = bare and length > 1 and depth % 8 == 0 and depth <= 128
    half = q_BLHK.dtype in (jnp.bfloat16, jnp.float16)
    return cudnn if plain and half and compute_capability() >= (8, 0) else reference


def automatic(
    q_BLHK: jax.Array,
    k_BMGK: jax.Array,
    v_BMGK: jax.Array,
    bias_AHLM: jax.Array | None,
    mask_ALM: jax.Array,
    scale: float,
    drop: Drop | None = None,
    cap: float | None = None,
    causal_BL: jax.Array | None = None,
) -> jax.Array:
    """The kernel that `select` returns."""
    kernel = select(q_BLHK, bias_AHLM, drop, cap)
    return kernel(q_BLHK, k_BMGK, v_BMGK, bias_AHLM, mask_ALM, scale, drop, cap, causal_BL)

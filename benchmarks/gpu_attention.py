"""Attention kernels on packed rows in bfloat16: difference from the reference in float32, milliseconds forward and backward.

A part of gpu_train.py. The library's kernels are "reference", "cudnn, mask" (of any kind), "cudnn, causal" and "packed"; "cudnn,
no segments" is cuDNN's causal attention across documents.
"""

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t5x_like.models import kernels

Kernel = Callable[
    [jax.Array, jax.Array, jax.Array, jax.Array], jax.Array
]  # q_BLHK, k_BMGK, v_BMGK, segments_BL -> y_BLHK


def same_segment(segments_BL: jax.Array) -> jax.Array:
    """The mask [B, L, M] of tokens of one segment."""
    return segments_BL[:, :, None] == segments_BL[:, None, :]


def attend(kernel: Callable, told: bool, q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array) -> jax.Array:
    """A kernel of the library with the causal mask of packed rows; it is `told` that the mask is causal."""
    mask = same_segment(segments) & jnp.tril(jnp.ones((q.shape[1], q.shape[1]), bool))
    return kernel(q, k, v, None, mask, q.shape[-1] ** -0.5, causal_BL=segments if told else None)


def cudnn_no_segments(q: jax.Array, k: jax.Array, v: jax.Array, _: jax.Array) -> jax.Array:
    """cuDNN's causal mask alone."""
    return jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation="cudnn")


def gradients(kernel: Kernel) -> Callable[..., tuple[jax.Array, ...]]:
    """The compiled function (q, k, v, segments, mix) -> gradients of sum(y * mix)."""

    def loss(q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array, mix: jax.Array) -> jax.Array:
        return jnp.sum(kernel(q, k, v, segments).astype(jnp.float32) * mix)

    return jax.jit(jax.grad(loss, (0, 1, 2)))


def make_inputs(rows: int, length: int, heads: int, kv_heads: int, depth: int, segments: int) -> tuple[np.ndarray, ...]:
    """Random queries, keys, values, segment ids and the weights of the outputs; every row has `segments` segments."""
    random = np.random.default_rng(0)
    counts = (heads, kv_heads, kv_heads, heads)
    q, k, v, mix = (random.normal(size=(rows, length, count, depth)).astype(np.float32) for count in counts)
    cuts = np.sort([random.choice(np.arange(1, length), segments - 1, replace=False) for _ in range(rows)], axis=1)
    ids = 1 + np.sum(np.arange(length)[None, :, None] >= cuts[:, None], axis=-1, dtype=np.int32)
    return q, k, v, ids, mix


def milliseconds(run: Callable[[], Any], calls: int) -> float:
    """The mean of `calls` calls in a row, the best of three."""
    best = np.inf
    for _ in range(3):
        started = time.perf_counter()
        for _ in range(calls):
            out = run()
        jax.block_until_ready(out)
        best = min(best, (time.perf_counter() - started) / calls)
    return best * 1e3


def measure(tiny: bool) -> Iterator[dict[str, Any]]:
    """Yields a row per kernel, with all query heads and with a quarter of key/value heads (GQA)."""
    rows, length, heads, depth, segments = (2, 64, 4, 16, 3) if tiny else (8, 2048, 16, 128, 6)
    sides: dict[str, Kernel] = {
        "reference": functools.partial(attend, kernels.reference, False),
        "cudnn, mask": functools.partial(attend, kernels.cudnn, False),
        "cudnn, causal": functools.partial(attend, kernels.cudnn, True),
        "packed": functools.partial(attend, kernels.Packed(segments), True),
        "cudnn, no segments": cudnn_no_segments,
    }
    for kv_heads in (heads, heads // 4):
        inputs = [jnp.asarray(x) for x in make_inputs(rows, length, heads, kv_heads, depth, segments)]
        half = [x.astype(jnp.bfloat16) for x in inputs[:3]] + inputs[3:]
        # The reference in float32 of two rows, as its scores take 4 H L^2 bytes per row.
        with jax.default_matmul_precision("highest"):
            exact = gradients(sides["reference"])(*(x[:2] for x in inputs))
        for name, kernel in sides.items():
            row = {"kernel": name, "kv heads": kv_heads}
            try:
                run = gradients(kernel)
                near = [
                    float(jnp.linalg.norm(a[:2] - b) / jnp.linalg.norm(b))
                    for a, b in zip(run(*half), exact, strict=True)
                ]
                forward = jax.jit(kernel)
                calls = 2 if tiny else 20
                jax.block_until_ready(forward(*half[:4]))
                row |= {
                    "difference": max(near),
                    "forward ms": milliseconds(functools.partial(forward, *half[:4]), calls),
                }
                row |= {"forward and backward ms": milliseconds(functools.partial(run, *half), calls)}
            except Exception as error:  # one kernel's failure leaves the others
                row |= {"error": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"}
            yield row

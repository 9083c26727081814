"""The state of decoding: a cache with a length per row, whose rows are filled, moved, copied and shortened independently.

The cache is the model's variable collection `cache`, and opaque: keys and values of attention, the encoder's output, the state of
a recurrence. Every function is pure and may be called under jit. Which axis of a leaf counts rows differs, as layers may be
stacked before it: functions that address rows take `axes`, computed once by `row_axes`.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from t5x_like.types import Model, Params

Cache = Any
Batch = Mapping[str, jax.Array]


def prefill(
    model: Model, params: Params, batch: Batch, length: int, cache: Cache | None = None
) -> tuple[jax.Array, Cache]:
    """Appends prompts, or the next chunk of each, to a cache of `length` tokens per row; None starts with an empty cache.

    `batch` has `decoder_input_tokens`, `decoder_positions` and `decoder_segment_ids` [B, P]; padding has segment 0.
    Encoder-decoder models need the encoder's arrays when the cache is empty, and only then.

    Returns:
      (float32 logits [B, V] after the last token of each row, the cache).
    """
    x_BLD, cache = hidden(model, params, batch, length, cache)
    real_BL = batch["decoder_segment_ids"] > 0
    last_B = jnp.max(jnp.where(real_BL, jnp.arange(real_BL.shape[1]), 0), axis=1)
    # Two models in one have a hidden state each.
    last = jax.tree.map(lambda x_BLD: jnp.take_along_axis(x_BLD, last_B[:, None, None], axis=1), x_BLD)
    return model.apply({"params": params}, last, method="logits")[:, 0], cache


def prefill_samples(model: Model, params: Params, batch: Batch, length: int, samples: int) -> tuple[jax.Array, Cache]:
    """Prefills an empty cache, and copies each row `samples` times; the copies of a row are neighbours.

    Returns:
      (float32 logits [B * samples, V] after the last token of each row, the cache).
    """
    logits_BV, cache = prefill(model, params, batch, length)
    if samples == 1:
        return logits_BV, cache
    index_A = jnp.repeat(jnp.arange(len(logits_BV)), samples)
    return logits_BV[index_A], take(row_axes(model, params, batch, length), cache, index_A)


def append(
    model: Model, params: Params, cache: Cache, tokens_BL: jax.Array, count_B: jax.Array
) -> tuple[jax.Array, Cache]:
    """Appends the first `count_B` of `tokens_BL` to each row; where these are none, the row's logits are meaningless.

    Returns:
      (float32 logits [B, V] after the last token of each row, the cache).
    """
    return prefill(model, params, next_batch(cache, tokens_BL, count_B), cache["segments"].shape[1], cache)


def decode_step(
    model: Model, params: Params, cache: Cache, token_B: jax.Array, live_B: jax.Array | None = None
) -> tuple[jax.Array, Cache]:
    """Appends one token to every row, or only to the rows that are `live_B`; the others' logits are meaningless.

    Returns:
      (float32 logits [B, V] after the token, the cache).
    """
    count_B = jnp.ones_like(token_B) if live_B is None else live_B.astype(jnp.int32)
    return append(model, params, cache, token_B[:, None], count_B)


def verify(
    model: Model, params: Params, cache: Cache, tokens_BL: jax.Array, count_B: jax.Array
) -> tuple[jax.Array, Cache]:
    """As `append`, with the logits after every token, which tell which of the tokens the model would have chosen itself.

    Returns:
      (float32 logits [B, L, V], meaningless from `count_B` on, the cache).
    """
    x_BLD, cache = hidden(model, params, next_batch(cache, tokens_BL, count_B), cache["segments"].shape[1], cache)
    return model.apply({"params": params}, x_BLD, method="logits"), cache


def next_batch(cache: Cache, tokens_BL: jax.Array, count_B: jax.Array) -> Batch:
    """The batch of the first `count_B` of `tokens_BL` at the positions behind the rows of the cache."""
    index_L = jnp.arange(tokens_BL.shape[1], dtype=jnp.int32)
    return {
        "decoder_input_tokens": tokens_BL,
        "decoder_positions": cache["lengths"][:, None] + index_L,
        "decoder_segment_ids": (index_L < count_B[:, None]).astype(jnp.int32),
    }


def hidden(model: Model, params: Params, batch: Batch, length: int, cache: Cache | None) -> tuple[jax.Array, Cache]:
    """The input [B, L, D] of the model's head at every token of a batch, which is appended to the cache; see `prefill`."""
    variables = {"params": params} if cache is None else {"params": params, "cache": cache}
    x_BLD, updated = model.apply(variables, batch, decode_length=length, mutable=["cache"], method="hidden")
    return x_BLD, updated["cache"]


def lengths(cache: Cache) -> jax.Array:
    """The number of tokens of each row, int32 [B]."""
    return cache["lengths"]


def rollback(cache: Cache, length_B: jax.Array) -> Cache:
    """Shortens rows to `length_B` tokens, of a model whose cache holds tokens, not the state of a recurrence."""
    length_B = jnp.minimum(length_B, cache["lengths"])
    kept_BM = jnp.arange(cache["segments"].shape[1]) < length_B[:, None]
    return {**cache, "lengths": length_B, "segments": jnp.where(kept_BM, cache["segments"], 0)}


def row_axes(model: Model, params: Params, batch: Batch, length: int) -> Cache:
    """The axis that counts rows of every leaf of the cache that `prefill` of such a batch returns."""

    def shapes(rows: int) -> Cache:
        of_rows = {name: jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype) for name, x in batch.items()}
        return jax.eval_shape(lambda params, batch: prefill(model, params, batch, length)[1], params, of_rows)

    return differing_axes(shapes(1), shapes(2))


def differing_axes(few: Cache, many: Cache) -> Cache:
    """The axis of every leaf whose size differs between two trees of shapes, in each of which it is one."""

    def differing(few: jax.ShapeDtypeStruct, many: jax.ShapeDtypeStruct) -> int:
        (axis,) = (i for i, (a, b) in enumerate(zip(few.shape, many.shape, strict=True)) if a != b)
        return axis

    return jax.tree.map(differing, few, many)


def take(axes: Cache, cache: Cache, index_N: jax.Array) -> Cache:
    """The cache of rows `index_N`: copies for several samples of a prompt, or rows in another order, as beam search needs."""
    return jax.tree.map(lambda axis, x: jnp.take(x, index_N, axis=axis), axes, cache)


def insert(axes: Cache, cache: Cache, slot_N: jax.Array, new: Cache) -> Cache:
    """Replaces rows `slot_N` by those of a cache of N rows with the same `length`; slots beyond the end are left out."""

    def replace(axis: int, x: jax.Array, rows: jax.Array) -> jax.Array:
        moved = jnp.moveaxis(x, axis, 0).at[slot_N].set(jnp.moveaxis(rows, axis, 0), mode="drop")
        return jnp.moveaxis(moved, 0, axis)

    return jax.tree.map(replace, axes, cache, new)

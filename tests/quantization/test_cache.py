"""The int8 cache: decoding equals a forward pass whose keys and values are rounded, whatever is done to rows."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_like.decoding import state
from t5x_like.models import kernels, positions
from t5x_like.quantization import cache, formats, weights
from tests import tiny
from tests.models import decoder_checks

LENGTH = 12
MODELS = {
    "rope": lambda: tiny.decoder(),
    "scanned encoder-decoder": lambda: tiny.encoder_decoder(scan=True, position=positions.RelativeBias(tiny.HEADS)),
}


def rounded(q_BLHK, k_BMGK, v_BMGK, *rest):
    """Attention without a cache, to keys and values that are rounded to 1/127 of their vector's largest number."""

    def round_vectors(x):
        scale = jnp.max(jnp.abs(x), -1, keepdims=True) / 127
        return scale * jnp.round(x / scale)

    return kernels.reference(q_BLHK, round_vectors(k_BMGK), round_vectors(v_BMGK), *rest)


def with_kernel(model, kernel):
    """The model with another kernel in its decoder."""
    block = model.decoder.block
    parts = {"mixer": block.mixer, "cross": block.cross}
    parts = {name: part.clone(kernel=kernel) for name, part in parts.items() if part is not None}
    return dataclasses.replace(model, decoder=model.decoder.clone(block=block.clone(**parts)))


def check(found, expected):
    """A number on the edge may be rounded the other way, which changes the logits behind it a little."""
    error = np.abs(np.asarray(found) - expected)
    assert np.mean(error < 2e-5) > 0.8 and error.max() < 5e-3, (np.mean(error < 2e-5), error.max())


@pytest.mark.parametrize("name", MODELS)
def test_decoding_equals_a_forward_pass_with_rounded_keys_and_values(name):
    plain = MODELS[name]()
    batch, memory = decoder_checks.decoder_batch(LENGTH, rows=3), {}
    if plain.encoder_decoder:
        memory = decoder_checks.decoder_batch(6, rows=3, seed=1)
        memory = {key.replace("decoder", "encoder"): x for key, x in memory.items()}
    params = jax.tree.map(jnp.asarray, decoder_checks.random_params(plain, batch | memory))
    full = jax.jit(with_kernel(plain, rounded).apply)({"params": params}, batch | memory)
    assert np.abs(full - jax.jit(plain.apply)({"params": params}, batch | memory)).max() > 5e-3
    model = cache.quantize(plain)
    tokens = batch["decoder_input_tokens"]

    def prompts(counts, stop):
        real = np.arange(stop) < np.asarray(counts)[:, None]
        return {key: x[:, :stop] for key, x in batch.items()} | {"decoder_segment_ids": real.astype(np.int32)} | memory

    prefill = jax.jit(lambda batch: state.prefill(model, params, batch, LENGTH))
    append = jax.jit(lambda held, tokens, counts: state.verify(model, params, held, tokens, counts))
    logits, held = prefill(prompts([7, 2, 5], 8))
    check(logits, full[np.arange(3), [6, 1, 4]])
    held = state.rollback(held, np.array([3, 2, 4]))
    axes = state.row_axes(model, params, prompts([7, 2, 5], 8), LENGTH)
    other = prefill(prompts([6, 4, 7], 8))[1]
    held = state.insert(axes, held, np.array([2]), state.take(axes, other, np.array([1])))  # row 1 of the other
    held = state.take(axes, held, np.array([2, 0, 0]))
    rows, starts, counts = np.array([1, 0, 0]), np.array([4, 3, 3]), np.array([3, 1, 3])
    np.testing.assert_array_equal(state.lengths(held), starts)
    if memory:  # the last two rows have that of row 0, the first that of row 1
        np.testing.assert_array_equal(held["memory"].segments_BL, memory["encoder_segment_ids"][rows])
    index_BL = starts[:, None] + np.arange(3)
    logits, held = append(held, tokens[rows[:, None], index_BL], counts)
    for row, (source, count) in enumerate(zip(rows, counts, strict=True)):
        check(logits[row, :count], full[source, index_BL[row, :count]])
    keys = [x for path, x in jax.tree_util.tree_leaves_with_path(held) if "key_cache" in jax.tree_util.keystr(path)]
    assert {x.dtype for x in keys} == {np.dtype("int8"), np.dtype("float32")}


def test_the_cache_has_little_more_than_a_quarter_of_the_bytes():
    model = tiny.decoder()
    batch, params = decoder_checks.decoder_batch(LENGTH, rows=1), tiny.init(model, tiny.batch())
    sizes = []
    for each in (model, cache.quantize(model)):
        held = jax.eval_shape(lambda p, b, each=each: state.prefill(each, p, b, LENGTH)[1], params, batch)
        sizes.append(weights.size_in_bytes(held["decoder"]))
    assert sizes[1] / sizes[0] == 0.25 + 1 / tiny.HEAD_DIM


def test_what_has_no_cache_and_unknown_formats_are_refused():
    with pytest.raises(ValueError, match="kv_cache_dtype='fp8' is not a known format; use 'int8', or None"):
        cache.quantize(tiny.decoder(), "fp8")
    with pytest.raises(ValueError, match=r"kv_cache_dtype='int8': the model \(EncoderOnly\) has no decoding cache"):
        cache.quantize(tiny.encoder())
    assert tuple(cache.FUNCTIONS) == formats.CACHE

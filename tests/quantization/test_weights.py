"""Int8 weights: their error is bounded, and a model computes with them what it computes with the arrays they stand for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_like import parameters, partitioning, prompt_batches
from t5x_like.models import architectures, heads, linear, positions, quantized
from t5x_like.quantization import formats, weights
from tests import tiny


def is_quantized(x):
    return isinstance(x, quantized.Int8)


def albert() -> architectures.DecoderOnly:
    tower = tiny.tower(scan=True, repeats=1).clone(shared=True)
    embed = linear.Projected(linear.Embed(tiny.VOCAB, 16), tiny.WIDTH)
    return architectures.DecoderOnly(embed, tower, heads.Projected(heads.Tied(use_bias=True), 16))


MODELS = {
    "tied, learned": lambda: architectures.DecoderOnly(
        linear.Embed(tiny.VOCAB, tiny.WIDTH), tiny.tower(repeats=1, position=positions.Learned(64)), heads.Tied()
    ),
    "scanned experts": lambda: tiny.decoder(experts=True, scan=True, repeats=1),
    "shared, projected": albert,
    "encoder-decoder": lambda: tiny.encoder_decoder(repeats=1, position=positions.RelativeBias(tiny.HEADS)),
}


@pytest.mark.parametrize("axes", [0, -1, (0, 2)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_error_of_an_element_is_at_most_half_a_scale(axes, dtype):
    x = (jax.random.normal(jax.random.key(0), (8, 6, 16)) * jnp.logspace(-20, 20, 16)).astype(dtype).at[:, 2].set(0)
    q = jax.jit(quantized.to_int8, static_argnums=1)(x, axes)
    exact, values = np.asarray(x, np.float64), np.asarray(q.values, np.float64)
    scales = np.asarray(q.scales, np.float64)
    assert q.values.dtype == jnp.int8 and q.scales.shape == np.max(exact, axis=axes, keepdims=True).shape
    assert np.all(np.abs(values * scales - exact) <= 0.5001 * scales) and np.abs(values).max() == 127
    restored = quantized.dequantize(q)
    assert restored.dtype == dtype and not np.any(np.asarray(restored)[exact == 0])
    np.testing.assert_allclose(np.asarray(restored, np.float64), values * scales, rtol=2 * jnp.finfo(dtype).eps)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_computes_what_it_computes_with_the_arrays_that_they_stand_for(name):
    model = MODELS[name]()
    batch = tiny.batch(sides=model.sides)
    params = tiny.init(model, batch)
    given = weights.quantize(model, params)
    apply = jax.jit(model.apply)
    logits = apply({"params": given}, batch)
    np.testing.assert_allclose(logits, apply({"params": weights.dequantize(given)}, batch), atol=1e-5)
    if "experts" not in name:  # which may choose others
        exact = np.asarray(apply({"params": params}, batch))
        assert 0 < np.abs(logits - exact).max() < 0.1 * np.abs(exact).max()


@pytest.mark.parametrize("name", MODELS)
def test_kernels_and_tables_have_a_scale_per_output(name):
    model = MODELS[name]()
    params = tiny.init(model, tiny.batch(sides=model.sides))
    given = weights.quantize(model, params)
    found = jax.tree_util.tree_leaves_with_path(given, is_leaf=is_quantized)
    for (path, x), old in zip(found, jax.tree.leaves(params), strict=True):
        path = parameters.path_name(path)
        kept = any(part in path for part in ("norm", "bias", "position", "router"))
        assert is_quantized(x) != kept, path
        if kept:
            assert x is old
            continue
        stacked = ("layers" in path and "shared" not in name) + ("/mlp/" in path and "experts" in name)
        outputs = old.shape[:-1] if path.endswith("table") else old.shape[:stacked] + old.shape[stacked + 1 :]
        if path.endswith("out/kernel"):
            outputs = old.shape[:stacked] + old.shape[-1:]
        assert x.scales.size == np.prod(outputs), path


@pytest.mark.parametrize("length", [7, 8, 100])
@pytest.mark.parametrize("axis", [0, 1])
def test_blocks_give_the_product_of_the_whole(length, axis, monkeypatch):
    """The last block overlaps the one before if they do not divide the axis."""
    monkeypatch.setattr(quantized, "BLOCK", 8 * 16)
    x_ND, w = jax.random.normal(jax.random.key(0), (3, 16)), jax.random.normal(jax.random.key(1), (16, length))
    q = quantized.to_int8(w, 0) if axis else quantized.to_int8(w.T, 1)
    found = jax.jit(lambda q: quantized.by_blocks(lambda w: x_ND @ (w if axis else w.T), q, jnp.float32, axis))(q)
    whole = quantized.dequantize(q)
    np.testing.assert_allclose(found, x_ND @ (whole if axis else whole.T), rtol=1e-5, atol=1e-5)


def test_programs_for_one_cpu_hold_a_quarter_of_the_bytes_and_no_float_copy():
    model = architectures.DecoderOnly(linear.Embed(1024, 512), tiny.tower(repeats=1), heads.Tied())
    batch = prompt_batches.one_token(model.sides)
    exact = tiny.init(model, batch)
    params = weights.quantize(model, exact)
    assert weights.size_in_bytes(params) <= 0.26 * weights.size_in_bytes(exact)
    with partitioning.on(partitioning.make_mesh(devices=jax.devices()[:1])):
        text = jax.jit(model.apply).lower({"params": params}, batch).compile().as_text()
    assert "f32[1024,512]" not in text and "s8[1024,512]" in text


def test_values_and_scales_are_split_over_devices_as_the_weights_were():
    model, batch = tiny.decoder(experts=True, repeats=1), tiny.batch()
    one = tiny.init(model, batch)
    mesh = partitioning.make_mesh(data=1, fsdp=2, expert=2, tensor=2)
    boxed = jax.eval_shape(lambda: model.init(jax.random.key(0), batch)["params"])
    shardings = partitioning.shardings(boxed, mesh)
    many = weights.quantize(model, jax.device_put(one, shardings))
    for x, sharding in zip(jax.tree.leaves(many, is_leaf=is_quantized), jax.tree.leaves(shardings), strict=True):
        if is_quantized(x):
            assert x.values.sharding.is_equivalent_to(sharding, x.values.ndim)
            scales = zip(x.scales.shape, x.scales.sharding.spec, sharding.spec, strict=True)
            assert all(names is None if size == 1 else names == before for size, names, before in scales)
    jax.tree.map(np.testing.assert_array_equal, weights.quantize(model, one), many)


def test_an_unknown_format_is_refused():
    with pytest.raises(ValueError, match="quantization='int7' is not a known format; use 'int8', or None"):
        weights.quantize(tiny.decoder(), {}, "int7")
    assert tuple(weights.FUNCTIONS) == formats.WEIGHTS

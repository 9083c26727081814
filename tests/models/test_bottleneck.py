"""Bottleneck adapters: the published count, the base at the start, and where they read and add."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from t5x_like.models import blocks
from t5x_like.models.bottleneck import Parallel, Serial
from t5x_like.models.context import Context, token_info
from tests import tiny


def with_adapters(model, **adapters):
    tower = model.decoder.clone(block=model.decoder.block.clone(**adapters))
    return model.clone(decoder=tower)


@pytest.mark.parametrize("make", [tiny.decoder, tiny.encoder_decoder])
@pytest.mark.parametrize("adapter", [Serial(8), Parallel(8, scale=4.0)])
def test_adapters_start_as_the_base_and_have_the_published_count(make, adapter):
    sides = ("encoder", "decoder") if make is tiny.encoder_decoder else ("decoder",)
    batch, base = tiny.batch(2, sides=sides), make(scan=True)
    names = {name: adapter.copy() for name in ("mixer_adapter", "mlp_adapter", "cross_adapter")[: 1 + len(sides)]}
    model = with_adapters(base, **names)
    params, plain = tiny.init(model, batch), tiny.init(base, batch)
    layers = params["decoder"]["layers"]
    added = {name: layers[name] for name in names}
    count = sum(x.size for x in jax.tree.leaves(added))
    assert count == len(names) * 2 * (2 * 32 * 8 + 32 + 8)  # in each of two layers: 2dm + d + m
    own = {name: x for name, x in layers.items() if name not in names}
    assert jax.tree.structure(own) == jax.tree.structure(plain["decoder"]["layers"])
    without = params | {"decoder": params["decoder"] | {"layers": own}}
    logits = [m.apply({"params": p}, batch) for m, p in ((model, params), (base, without))]
    np.testing.assert_array_equal(*logits)


@pytest.mark.parametrize("adapter", [Serial(4), Parallel(4, scale=3.0)])
def test_an_adapter_reads_and_adds_what_the_papers_say(adapter):
    block = blocks.Block(tiny.decoder().decoder.block.mixer, mixer_adapter=adapter)
    ctx = tiny_context()
    x = jax.random.normal(jax.random.key(0), (2, 12, 32))
    params = block.init(jax.random.key(1), x, ctx)["params"]
    params = jax.tree.map(lambda p: p + 0.1 * jax.random.normal(jax.random.key(2), p.shape), nn.unbox(params))
    bare = block.clone(mixer_adapter=None)
    own = {name: p for name, p in params.items() if name != "mixer_adapter"}
    y = bare.apply({"params": own}, x, ctx) - x
    normed = x / jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-6) * params["mixer_norm"]["scale"]
    read, weights = (y if isinstance(adapter, Serial) else normed), params["mixer_adapter"]
    hidden = adapter.activation(read @ weights["down"]["kernel"] + weights["down"]["bias"])
    scale = getattr(adapter, "scale", 1.0)
    expected = x + y + scale * (hidden @ weights["up"]["kernel"] + weights["up"]["bias"])
    np.testing.assert_allclose(block.apply({"params": params}, x, ctx), expected, atol=2e-5)


def tiny_context():
    info = token_info(tiny.batch(2), "decoder")
    return Context(info, info)

"""The sublayer contract `f(x_BLD, ctx) -> y_BLD` also fits recurrent mixers: a gated linear recurrence and its hybrids."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from t5x_like.models import architectures, attention, blocks, linear, mlp, positions, stack
from t5x_like.models.context import Context
from t5x_like.models.heads import Untied
from tests import tiny
from tests.models.contexts import random_params
from tests.models.decoder_checks import (
    assert_cached_decoding_equals_full_forward,
    assert_packed_equals_unpacked,
    decoder_batch,
    rows,
    run,
)


class GatedRecurrence(nn.Module):
    """h_t = a_t h_{t-1} + (1 - a_t) v_t, y_t = W (h_t sigmoid(g_t)); a, v and g are projections of x_t (a toy Mamba).

    The state [B, D] is kept in the `cache` collection. It is reset at position 0 of a segment and not changed by padding.
    """

    @nn.compact
    def __call__(self, x_BLD: jax.Array, ctx: Context) -> jax.Array:
        width = x_BLD.shape[-1:]
        v_BLD, a_BLD, g_BLD = (
            linear.Dense(width, ("embed", "mlp"), name=name)(x_BLD) for name in ("value", "decay", "gate")
        )
        real_BL1 = (ctx.queries.segments_BL > 0)[..., None]
        first_BL1 = (ctx.queries.positions_BL == 0)[..., None]
        a_BLD = nn.sigmoid(a_BLD)
        v_BLD = jnp.where(real_BL1, (1 - a_BLD) * v_BLD, 0.0)
        a_BLD = jnp.where(real_BL1, jnp.where(first_BL1, 0.0, a_BLD), 1.0)
        if ctx.decode:
            state = self.variable("cache", "state", jnp.zeros, (x_BLD.shape[0], *width), x_BLD.dtype)
            h_BD = state.value
        else:
            h_BD = jnp.zeros_like(x_BLD[:, 0])

        def step(h_BD, inputs):
            h_BD = inputs[0] * h_BD + inputs[1]
            return h_BD, h_BD

        h_BD, h_LBD = jax.lax.scan(step, h_BD, (jnp.swapaxes(a_BLD, 0, 1), jnp.swapaxes(v_BLD, 0, 1)))
        if ctx.decode:
            state.value = h_BD
        y_BLD = jnp.swapaxes(h_LBD, 0, 1) * nn.sigmoid(g_BLD)
        return linear.Dense(width, ("mlp", "embed"), name="out")(y_BLD)


RECURRENT = blocks.Block(GatedRecurrence(), mlp.Mlp(8))
ATTENTIVE = blocks.Block(attention.SelfAttention(tiny.HEADS, tiny.HEAD_DIM), mlp.Mlp(8))
BLOCKS = {"alone": RECURRENT, "hybrid": blocks.Pattern([RECURRENT, ATTENTIVE])}


def make_decoder(name: str, scan: bool) -> architectures.DecoderOnly:
    layers = stack.Stack(BLOCKS[name], 2, positions.Rope(tiny.HEAD_DIM), scan=scan)
    return architectures.DecoderOnly(linear.Embed(tiny.VOCAB, tiny.WIDTH), layers, Untied())


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("scan", [False, True])
def test_decoding_with_a_cached_state_equals_the_full_forward_pass(name, scan):
    assert_cached_decoding_equals_full_forward(make_decoder(name, scan))


@pytest.mark.parametrize("name", BLOCKS)
def test_packed_segments_equal_unpacked(name):
    assert_packed_equals_unpacked(run(make_decoder(name, True), rows("decoder")))


@pytest.mark.parametrize("name", BLOCKS)
def test_scanned_equals_unrolled(name):
    scanned, unrolled, batch = make_decoder(name, True), make_decoder(name, False), decoder_batch(rows=2)
    params = random_params(scanned, batch)
    layers = params["decoder"].pop("layers")
    each = {f"layer_{i}": jax.tree.map(lambda x, i=i: x[i], layers) for i in range(2)}
    flat = params | {"decoder": params["decoder"] | each}
    expected = jax.jit(unrolled.apply)({"params": flat}, batch)
    params["decoder"]["layers"] = layers
    np.testing.assert_allclose(jax.jit(scanned.apply)({"params": params}, batch), expected, atol=1e-5)

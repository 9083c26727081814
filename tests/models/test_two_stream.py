"""XLNet's two streams: visibility, and equality with plain encoders for no order and the causal order."""

import jax
import numpy as np

from t5x_like.models import architectures, blocks, heads, linear, masks, mlp, norms, stack
from t5x_like.models.transformer_xl import RelativeAttention
from tests import tiny
from tests.models.contexts import random_params, token_info

SEGMENTS = [[1] * 8, [1, 1, 1, 2, 2, 2, 2, 0]]
# Ranks 1, 2, ... are predicted; rank 0 is context.
ORDER = [[3, 0, 5, 1, 0, 2, 4, 6], [2, 0, 1, 0, 3, 1, 2, 0]]
EMBED = linear.Embed(tiny.VOCAB, tiny.WIDTH)


def encoder(mask) -> stack.Stack:
    mixer = RelativeAttention(tiny.HEADS, tiny.HEAD_DIM, segment_bias=True, mask=mask)
    return stack.Stack(blocks.Block(mixer, mlp.Mlp(16), norm=norms.LayerNorm(), placement=blocks.post), 2, norm=None)


MODEL = architectures.TwoStream(EMBED, encoder(masks.permuted), heads.Tied())


def batch_of(**others):
    info = token_info(SEGMENTS)
    random = np.random.default_rng(0)
    return {
        "encoder_input_tokens": random.integers(3, tiny.VOCAB, info.segments_BL.shape).astype(np.int32),
        "encoder_positions": np.asarray(info.positions_BL),
        "encoder_segment_ids": np.asarray(info.segments_BL),
        "encoder_token_types": random.integers(0, 2, info.segments_BL.shape).astype(np.int32),
    } | {name: np.asarray(x, np.int32) for name, x in others.items()}


@jax.jit
def logits_and_states(params, batch):
    """Returns the logits and the encoder's output for both streams."""
    logits, state = MODEL.apply(
        {"params": params},
        batch,
        mutable=["intermediates"],
        capture_intermediates=lambda module, _: module.name == "encoder",
    )
    return logits, state["intermediates"]["encoder"]["__call__"][0]


def encode(mask, params, batch):
    """Returns the hidden states of a plain encoder with these parameters and this mask."""
    model = architectures.EncoderOnly(EMBED, encoder(mask), heads.states)
    inputs = {name: x for name, x in batch.items() if name != "encoder_token_types"}
    return jax.jit(model.apply)({"params": {name: params[name] for name in ("embed", "encoder")}}, inputs)


def test_only_queries_of_higher_rank_see_a_token():
    batch = batch_of(encoder_order=ORDER)
    params = random_params(MODEL, batch)
    logits, states = logits_and_states(params, batch)
    order, segments = np.array(ORDER), np.array(SEGMENTS)
    for j in range(8):
        tokens = batch["encoder_input_tokens"].copy()
        tokens[:, j] = 3 + (tokens[:, j] + 7) % 50
        other, other_states = logits_and_states(params, batch | {"encoder_input_tokens": tokens})
        query_differs = np.abs(other - logits).max(-1) > 1e-4
        content_differs = np.abs(other_states - states)[:, :8].max(-1) > 1e-4
        for b, i in np.argwhere(segments > 0):
            same_segment = segments[b, i] == segments[b, j]
            if order[b, i] > 0:
                assert query_differs[b, i] == (same_segment and order[b, j] < order[b, i])
            assert content_differs[b, i] == (same_segment and order[b, j] <= order[b, i])


def test_the_content_stream_in_causal_order_equals_a_causal_encoder():
    batch = batch_of(encoder_order=np.tile(np.arange(8), (2, 1)))
    del batch["encoder_token_types"]
    params = random_params(MODEL, batch)
    _, states = logits_and_states(params, batch)
    real = np.array(SEGMENTS) > 0
    np.testing.assert_allclose(states[:, :8][real], encode(masks.causal, params, batch)[real], atol=1e-5)


def test_streams_without_an_order_equal_a_full_encoder():
    batch = batch_of()
    del batch["encoder_token_types"]
    params = random_params(MODEL, batch)
    logits, states = logits_and_states(params, batch)
    full, real = encode(masks.full, params, batch), np.array(SEGMENTS) > 0
    np.testing.assert_allclose(states[real], full[real], atol=1e-5)
    np.testing.assert_allclose(logits[real], full[real] @ params["embed"]["table"].T, atol=1e-4)

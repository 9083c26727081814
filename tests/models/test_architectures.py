"""The architectures with every position encoding: visibility, packing, padding, and step-by-step decoding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from t5x_like.models import architectures, attention, blocks, linear, masks, mlp, moe, norms, positions, routers, stack
from t5x_like.models.electra import Electra
from t5x_like.models.heads import MaskedLM, Pooler, Projected, Tied, Untied
from t5x_like.models.transformer_xl import RelativeAttention
from tests import tiny
from tests.models.contexts import random_params
from tests.models.decoder_checks import (
    L,
    assert_cached_decoding_equals_full_forward,
    assert_packed_equals_unpacked,
    decoder_batch,
    rows,
    run,
)

POSITIONS = {
    "learned": positions.Learned(16),
    "sinusoidal": positions.Sinusoidal(),
    "rope": positions.Rope(tiny.HEAD_DIM),
    "relative": positions.RelativeBias(tiny.HEADS, bidirectional=True),
    "alibi": positions.Alibi(tiny.HEADS),
    "none": None,
}


def causal(mixer=None, position=None, **options) -> stack.Stack:
    """Returns a stack of one layer (or `repeats`) with this mixer."""
    options = {"repeats": 1, "scan": False} | options
    return stack.Stack(blocks.Block(mixer or heads(), mlp.Mlp(8)), position=position, **options)


def heads(**options) -> attention.SelfAttention:
    return attention.SelfAttention(tiny.HEADS, tiny.HEAD_DIM, **options)


DECODERS = {name: causal(position=position) for name, position in POSITIONS.items()} | {
    "window": causal(heads(mask=masks.Window(2)), positions.Rope(tiny.HEAD_DIM)),
    "normed and capped": causal(
        heads(num_kv_heads=2, qk_norm=norms.RMSNorm(dims=2), soft_cap=0.5), positions.Rope(tiny.HEAD_DIM // 2)
    ),
    "transformer_xl": causal(RelativeAttention(tiny.HEADS, tiny.HEAD_DIM)),
    "rounded alibi": causal(position=positions.Alibi(tiny.HEADS, dtype=jnp.bfloat16)),
    "shared": causal(position=positions.Rope(tiny.HEAD_DIM), repeats=3, shared=True),
}


def make_decoder(name: str) -> architectures.DecoderOnly:
    return architectures.DecoderOnly(linear.Embed(tiny.VOCAB, tiny.WIDTH), DECODERS[name], Untied())


@pytest.mark.parametrize("name", DECODERS)
def test_packed_segments_equal_unpacked_in_a_decoder(name):
    assert_packed_equals_unpacked(run(make_decoder(name), rows("decoder")))


@pytest.mark.parametrize("name", POSITIONS)
def test_packed_segments_equal_unpacked_in_an_encoder(name):
    tower = tiny.tower(causal=False, repeats=1)
    encoder = stack.Stack(tower.block, 1, POSITIONS[name], scan=False)
    model = architectures.EncoderOnly(linear.Embed(tiny.VOCAB, tiny.WIDTH), encoder, MaskedLM())
    assert_packed_equals_unpacked(run(model, rows("encoder")))


def test_packed_segments_equal_unpacked_in_an_encoder_decoder():
    batch = rows("encoder") | rows("decoder", (4, 2, 5), seed=7)
    assert_packed_equals_unpacked(run(tiny.encoder_decoder(repeats=1), batch), (4, 2, 5))


@pytest.mark.parametrize("dispatch", [moe.dense, moe.dropless])
def test_packed_segments_equal_unpacked_with_experts(dispatch):
    experts = moe.Moe(routers.TopK(4), 32, gated=True, dispatch=dispatch)
    block = blocks.Block(heads(), experts)
    decoder = stack.Stack(block, 1, positions.Rope(tiny.HEAD_DIM), scan=False)
    model = architectures.DecoderOnly(linear.Embed(tiny.VOCAB, tiny.WIDTH), decoder, Untied())
    assert_packed_equals_unpacked(run(model, rows("decoder")))


@pytest.mark.parametrize("make", [tiny.decoder, tiny.encoder, tiny.encoder_decoder], ids=lambda make: make.__name__)
def test_padding_has_no_effect(make):
    sides = {"decoder": ("decoder",), "encoder": ("encoder",), "encoder_decoder": ("encoder", "decoder")}[make.__name__]
    batch, model = tiny.batch(4, L, sides), make(repeats=1)
    other = dict(batch)
    for side in sides:
        padding = batch[f"{side}_segment_ids"] == 0
        assert padding.any()
        other[f"{side}_input_tokens"] = np.where(padding, 5, batch[f"{side}_input_tokens"])
        other[f"{side}_positions"] = np.where(padding, 9, batch[f"{side}_positions"])
    real = batch[f"{sides[-1]}_segment_ids"] > 0
    apply, params = jax.jit(model.apply), {"params": random_params(model, batch)}
    np.testing.assert_allclose(apply(params, batch)[real], apply(params, other)[real], atol=1e-6)


def test_a_prefix_is_bidirectional_and_the_rest_causal():
    base, prefix = decoder_batch(8), 4
    batch = {name: np.repeat(x, 9, 0) for name, x in base.items()}
    batch["decoder_prefix"] = np.tile(np.arange(8) < prefix, (9, 1)).astype(np.int32)
    for i in range(8):
        batch["decoder_input_tokens"][i + 1, i] = 3 + (base["decoder_input_tokens"][0, i] + 1) % 50
    logits = run(tiny.decoder(repeats=1), batch)
    for changed, read in np.ndindex(8, 8):
        differs = np.abs(logits[changed + 1, read] - logits[0, read]).max() > 1e-4
        assert differs == (changed <= read or (changed < prefix and read < prefix))


def test_the_encoder_is_bidirectional_and_the_decoder_sees_all_of_it():
    batch = {name: np.repeat(x, 7, 0) for name, x in decoder_batch(6).items()}
    batch |= {name.replace("decoder", "encoder"): x.copy() for name, x in batch.items()}
    for i in range(6):
        batch["encoder_input_tokens"][i + 1, i] = 3 + (batch["encoder_input_tokens"][0, i] + 1) % 50
    logits = run(tiny.encoder_decoder(repeats=1), batch)
    assert np.all(np.abs(logits[1:] - logits[0]).max(-1) > 1e-5)


def test_hidden_then_logits_equals_the_full_forward_pass():
    batch, model = decoder_batch(), tiny.decoder(repeats=1)
    params = {"params": random_params(model, batch)}

    @jax.jit
    def hidden_then_logits(params):
        x_BLD = model.apply(params, batch, method="hidden")
        return model.apply(params, x_BLD[:, 3:5], method="logits")

    np.testing.assert_allclose(hidden_then_logits(params), run(model, batch)[:, 3:5], atol=1e-5)


def test_16_bit_parameters_give_16_bit_activations_and_float32_logits():
    batch = tiny.batch(2, L, ("encoder", "decoder"))
    model = tiny.encoder_decoder(repeats=1, experts=True)
    params = random_params(model, batch)
    half = {"params": jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)}
    assert jax.eval_shape(lambda: model.apply(half, batch, method="hidden")).dtype == jnp.bfloat16
    logits, exact = jax.jit(model.apply)(half, batch), run(model, batch)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, exact, atol=0.05 * np.abs(exact).max())


@pytest.mark.parametrize("name", DECODERS)
def test_decoders_stay_in_16_bits(name):
    model, batch = make_decoder(name), decoder_batch()
    half = {"params": jax.tree.map(lambda p: p.astype(jnp.bfloat16), random_params(model, batch))}
    assert jax.eval_shape(lambda: model.apply(half, batch, method="hidden")).dtype == jnp.bfloat16


def test_token_types_are_added():
    types = linear.Embed(2, tiny.WIDTH)
    model = tiny.encoder(repeats=1).copy(token_types=types)
    batch = rows("encoder") | {"encoder_token_types": np.zeros((4, L), np.int32)}
    params = {"params": random_params(model, batch)}
    other = batch | {"encoder_token_types": np.ones((4, L), np.int32)}
    apply = jax.jit(model.apply)
    zero, one = (np.asarray(apply(params, each)) for each in (batch, other))
    assert np.all(np.abs(zero - one).max(-1) > 1e-4)
    params["params"]["token_types"]["table"] = jnp.zeros((2, tiny.WIDTH))
    bare = {"params": {name: part for name, part in params["params"].items() if name != "token_types"}}
    np.testing.assert_allclose(apply(params, other), jax.jit(tiny.encoder(repeats=1).apply)(bare, batch), atol=1e-5)


def test_a_row_is_pooled_and_classified_from_its_first_state():
    classifier = linear.Dense((3,), ("embed", "router"), use_bias=True)
    pooling = tiny.encoder(repeats=1).copy(pooler=Pooler())
    model, batch = pooling.copy(classifier=classifier), rows("encoder")
    variables = {"params": random_params(model, batch)}
    assert {"pooler", "classifier"} <= set(variables["params"])
    hidden, pooled, classes = jax.jit(
        lambda v: tuple(model.apply(v, batch, method=name) for name in ("hidden", "pool", "classify"))
    )(variables)
    params = variables["params"]
    transform = params["pooler"]["transform"]
    np.testing.assert_allclose(pooled, np.tanh(hidden[:, 0] @ transform["kernel"] + transform["bias"]), atol=1e-5)
    last = params["classifier"]
    np.testing.assert_allclose(classes, pooled @ last["kernel"] + last["bias"], atol=1e-5)
    del params["classifier"]
    assert jax.tree.structure(params) == jax.tree.structure(random_params(pooling, batch))
    np.testing.assert_allclose(jax.jit(lambda v: pooling.apply(v, batch, method="classify"))(variables), pooled)


def test_a_narrow_embedding_and_its_head_share_one_table():
    narrow = linear.Projected(linear.Embed(tiny.VOCAB, 6), tiny.WIDTH)
    model, batch = architectures.DecoderOnly(narrow, causal(), Projected(Tied(), 6)), decoder_batch()
    params = random_params(model, batch)
    whole = {"embed": {"table": params["embed"]["embed"]["table"] @ params["embed"]["projection"]["kernel"]}}
    whole |= {
        "decoder": params["decoder"],
        "head": {"table": params["embed"]["embed"]["table"] @ params["head"]["projection"]["kernel"].T},
    }
    wide = architectures.DecoderOnly(linear.Embed(tiny.VOCAB, tiny.WIDTH), causal(), Untied())
    logits = jax.jit(model.apply)({"params": params}, batch)
    np.testing.assert_allclose(logits, jax.jit(wide.apply)({"params": whole}, batch), atol=1e-5)


def test_models_report_their_kind_and_vocabulary_size():
    table, tower = linear.Embed(tiny.VOCAB, tiny.WIDTH), causal()
    encoder = architectures.EncoderOnly(table, tower, MaskedLM())
    narrow = linear.Projected(linear.Embed(tiny.VOCAB, 6), tiny.WIDTH)
    models = [
        architectures.DecoderOnly(table, tower, Untied()),
        architectures.DecoderOnly(narrow, tower, Projected(Tied(), 6)),
        architectures.EncoderDecoder(table, tower, tower, Tied()),
        architectures.TwoStream(table, tower, Tied()),
        encoder,
        Electra(table, encoder, encoder),
    ]
    assert [model.encoder_decoder for model in models] == [False, False, True, False, False, False]
    assert {model.vocab_size for model in models} == {tiny.VOCAB}


def test_a_row_longer_than_the_position_table_is_refused_before_compiling():
    decoder = causal(position=positions.Learned(8))
    model = architectures.DecoderOnly(linear.Embed(tiny.VOCAB, tiny.WIDTH), decoder, Untied())
    with pytest.raises(ValueError, match=r"length of 12 .*max_length=8"):
        jax.eval_shape(model.init, jax.random.key(0), decoder_batch(12))
    params = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), decoder_batch(8)))
    with pytest.raises(ValueError, match=r"length of 9 .*max_length=8"):
        jax.eval_shape(lambda params: model.apply(params, decoder_batch(4), decode_length=9, mutable=["cache"]), params)


@pytest.mark.parametrize(
    ("name", "prefix"),
    [*((name, False) for name in DECODERS), ("rope", True), ("relative", True), ("transformer_xl", True)],
)
def test_cached_decoding_equals_the_full_forward_pass(name, prefix):
    assert_cached_decoding_equals_full_forward(make_decoder(name), prefix)


def test_decoding_with_a_cached_encoder_equals_the_full_forward_pass():
    model, steps = tiny.encoder_decoder(scan=True), 4
    memory = {name: x[:3] for name, x in tiny.batch(3, L, ("encoder",)).items()}
    memory["encoder_segment_ids"] = (memory["encoder_segment_ids"] > 0).astype(np.int32)
    memory["encoder_positions"] = np.tile(np.arange(L, dtype=np.int32), (3, 1))
    whole = decoder_batch(steps, rows=3)
    params = random_params(model, whole | memory)
    full = np.asarray(jax.jit(model.apply)({"params": params}, whole | memory))

    @jax.jit
    def call(variables, batch):
        return model.apply(variables, batch, decode_length=steps, mutable=["cache"])

    state, batch = {}, memory
    for i in range(steps):
        logits, state = call({"params": params, **state}, {k: x[:, i : i + 1] for k, x in whole.items()} | batch)
        np.testing.assert_allclose(logits[:, 0], full[:, i], atol=1e-5)
        batch = {}

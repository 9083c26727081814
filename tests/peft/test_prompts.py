"""Prompts and prefixes: a prompt of tokens' vectors is those tokens in front of the text, packed as alone, and in decoding."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from t5x_like import parameters, partitioning
from t5x_like.decoding import state
from t5x_like.models import positions
from t5x_like.models.prompts import Prompt as Place
from t5x_like.objectives.lm import LanguageModel
from t5x_like.optimizers import adamw
from t5x_like.peft.prefix import Prefix
from t5x_like.peft.prompt import Prompt
from t5x_like.precision import Precision
from t5x_like.training import state as train_state
from t5x_like.training.step import TrainStep, jit_step
from tests import tiny

IDS = [7, 9, 11]
COUNT, LENGTH = 5, 6
POSITIONS = {
    "rope": positions.Rope(tiny.HEAD_DIM),
    "learned": positions.Learned(32),
    "alibi": positions.Alibi(tiny.HEADS),
    "rounded_alibi": positions.Alibi(tiny.HEADS, dtype=jnp.bfloat16),
    "relative": positions.RelativeBias(tiny.HEADS),
}


def row(tokens, side, segment=1, first=0):
    tokens = np.asarray(tokens, np.int32)[None]
    where = first + np.arange(tokens.shape[1], dtype=np.int32)[None]
    return {
        f"{side}_input_tokens": tokens,
        f"{side}_positions": where,
        f"{side}_segment_ids": np.full(tokens.shape, segment, np.int32),
    }


def join(*rows):
    return {name: np.concatenate([x[name] for x in rows], axis=1) for name in rows[0]}


def texts(seed=0):
    return np.random.default_rng(seed).integers(12, tiny.VOCAB, (2, LENGTH))


def in_front(tokens):
    return [*(IDS * 2)[:COUNT], *tokens]


def view_of(model, batch, transform):
    boxed = jax.jit(model.init)(jax.random.key(0), batch)["params"]
    trained, frozen = nn.unbox(transform.split(boxed, jax.random.key(1)))
    return transform.merge(trained, frozen), trained, frozen


@pytest.mark.parametrize("name", POSITIONS)
def test_a_prompt_of_tokens_is_the_tokens_in_front_of_every_segment(name):
    """For a decoder, in packed rows, and in decoding with chunks and single tokens."""
    model = tiny.decoder(position=POSITIONS[name], scan=name == "rope").clone(virtual_tokens=COUNT)
    first, second = texts()
    packed = join(row(first, "decoder", 1), row(second, "decoder", 2))
    params, _, frozen = view_of(model, packed, Prompt(model, IDS))
    bare = model.clone(virtual_tokens=0)
    logits = jax.jit(model.apply)({"params": params}, packed)[0]
    for text, found in ((first, logits[:LENGTH]), (second, logits[LENGTH:])):
        expected = jax.jit(bare.apply)({"params": frozen}, row(in_front(text), "decoder"))[0, COUNT:]
        np.testing.assert_allclose(found, expected, atol=2e-5)
    prompt = {key: x[:, : LENGTH - 2] for key, x in row(first, "decoder").items()}
    after, cache = state.prefill(model, params, prompt, LENGTH)
    np.testing.assert_allclose(after[0], logits[LENGTH - 3], atol=2e-5)
    after, cache = state.decode_step(model, params, cache, jnp.asarray(first[-2:-1], jnp.int32))
    np.testing.assert_allclose(after[0], logits[LENGTH - 2], atol=2e-5)
    assert int(state.lengths(cache)[0]) == LENGTH - 1


@pytest.mark.parametrize("make, sides", [(tiny.encoder, ("encoder",)), (tiny.encoder_decoder, ("encoder", "decoder"))])
@pytest.mark.parametrize("name", ["learned", "relative"])
def test_a_prompt_of_tokens_is_the_tokens_in_front_of_an_encoders_text(make, sides, name):
    position = positions.RelativeBias(tiny.HEADS, bidirectional=True) if name == "relative" else POSITIONS[name]
    model = make(position=position)
    model = model.clone(prompt=Place(COUNT, segments=2))
    first, second = texts()
    packed = join(row(first, "encoder", 1), row(second, "encoder", 2))
    packed |= join(row(second, "decoder", 1), row(first, "decoder", 2)) if len(sides) > 1 else {}
    params, _, frozen = view_of(model, packed, Prompt(model, IDS))
    logits = jax.jit(model.apply)({"params": params}, packed)[0]
    bare = model.clone(prompt=None)
    for text, target, found in ((first, second, logits[:LENGTH]), (second, first, logits[LENGTH:])):
        alone = row(in_front(text), "encoder") | (row(target, "decoder") if len(sides) > 1 else {})
        expected = jax.jit(bare.apply)({"params": frozen}, alone)[0]
        np.testing.assert_allclose(found, expected if len(sides) > 1 else expected[COUNT:], atol=5e-5)
    small = model.clone(prompt=Place(COUNT))
    assert np.isnan(jax.jit(small.apply)({"params": params}, packed)).all()


@pytest.mark.parametrize("hidden", [None, 8])
def test_prefixes_are_seen_by_every_query_and_are_all_that_is_trained(hidden):
    model, batch = tiny.decoder(scan=True).clone(virtual_tokens=COUNT), tiny.batch(8)
    prefix = Prefix(hidden, width=6)
    params, trained, _ = view_of(model, batch, prefix)
    count = sum(x.size for x in jax.tree.leaves(trained))
    keys = 2 * 2 * COUNT * tiny.HEADS * tiny.HEAD_DIM  # 2 layers, keys and values
    assert count == (keys if hidden is None else COUNT * 6 + 7 * 8 + 9 * keys // COUNT)
    layers = params["decoder"]["layers"]["mixer"]
    assert layers["prefix_key"].shape == (2, COUNT, tiny.HEADS, tiny.HEAD_DIM)
    logits = jax.jit(model.apply)({"params": params}, batch)
    other = jax.tree.map(lambda x: x, params)
    other["decoder"]["layers"]["mixer"]["prefix_value"] += 1.0
    real = batch["decoder_segment_ids"] > 0
    assert (np.abs(jax.jit(model.apply)({"params": other}, batch) - logits).max(-1) > 1e-4)[real].all()


@pytest.mark.parametrize("kind", ["prompt", "prefix", "encoder"])
def test_a_step_trains_the_prompt_alone_and_is_the_same_on_a_mesh(kind):
    sides = ("encoder",) if kind == "encoder" else ("decoder",)
    if kind == "encoder":
        model = tiny.encoder().clone(prompt=Place(COUNT, segments=2))
    else:
        model = tiny.decoder().clone(virtual_tokens=COUNT)
    transform = Prefix(8, width=6) if kind == "prefix" else Prompt(model)
    batch, objective = tiny.batch(8, sides=sides), LanguageModel(side=sides[0])
    norms = []
    for mesh in (partitioning.make_mesh(devices=jax.devices()[:1]), partitioning.make_mesh(data=2, fsdp=2, tensor=2)):
        shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in batch.items()}
        layout = train_state.layout(model, adamw(1e-2), shapes, mesh, transform=transform)
        step = TrainStep(model.apply, objective, adamw(1e-2), parameters.view(transform, Precision()))
        sharding = partitioning.batch_sharding(mesh)
        fresh = layout.create(0)
        before = jax.device_get((fresh.params, fresh.frozen))
        with partitioning.on(mesh):
            after, metrics = jit_step(step, layout, sharding, mesh)(fresh, jax.device_put(batch, sharding), {})
        norms.append(float(metrics["grad_norm"][0]))
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(after.frozen), before[1])
        changed = [
            np.any(a != b)
            for a, b in zip(*map(jax.tree.leaves, (jax.device_get(after.params), before[0])), strict=True)
        ]
        assert all(changed) or kind == "prefix"
    assert norms[0] > 0 and norms[1] == pytest.approx(norms[0], rel=1e-4)


MODEL = tiny.decoder().clone(virtual_tokens=2)


@pytest.mark.parametrize(
    "make, model, message",
    [
        (lambda: Prefix(), tiny.decoder(), "Prefix trains virtual tokens, but the model has none"),
        (lambda: Prefix(0), MODEL, "Prefix.hidden=0 is not a positive whole number"),
        (lambda: Prefix(parameters=1), MODEL, "Prefix.parameters=1, but 256 parameters are trained"),
        (lambda: Prompt(tiny.decoder()), tiny.decoder(), "Prompt trains virtual tokens, but the model has none"),
        (lambda: Prompt(tiny.encoder()), tiny.encoder(), "Prompt trains a prompt, but the model has none"),
        (lambda: Prompt(MODEL, [tiny.VOCAB]), MODEL, "Prompt.ids=[64] are not ids of a vocabulary of 64"),
        (lambda: Prompt(MODEL, sampled=1), MODEL, "Prompt.sampled=1 ids are fewer than the prompt's 2 vectors"),
        (lambda: Prompt(MODEL, parameters=2), MODEL, "Prompt.parameters=2, but 64 parameters are trained"),
    ],
)
def test_bad_input_is_refused(make, model, message):
    shapes = jax.eval_shape(model.init, jax.random.key(0), tiny.batch(1, sides=model.sides))["params"]
    with pytest.raises(ValueError, match=re.escape(message)):
        jax.eval_shape(make().split, shapes, jax.random.PRNGKey(0))


def test_a_position_table_must_hold_the_virtual_tokens():
    model = tiny.decoder(position=positions.Learned(16)).clone(virtual_tokens=5)
    with pytest.raises(ValueError, match="a length of 17 is longer than the position table"):
        jax.eval_shape(model.init, jax.random.key(0), tiny.batch(1))

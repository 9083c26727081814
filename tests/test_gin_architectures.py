"""Every architecture in gin: its tiny size learns, respects its mask, applies dropout, and has the right modules.

Parameter counts and training steps of all sizes are in test_families.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from t5x_like.models import masks, mlp
from tests.gin_models import TINY, batch_for, batch_of, family_of, model_of
from tests.models.contexts import random_params

ENCODERS = {"bert", "roberta", "albert", "electra_discriminator", "electra_generator", "xlnet"}
# Compilation dominates the time of these tests.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def loss_of(model: nn.Module, batch, params) -> jax.Array:
    """Returns a loss that depends on every parameter: of each token (or of its replacement), of each row, and sown."""
    logits_BLV, sown = model.apply({"params": params}, batch, mutable=["losses"])
    targets_BL = batch["targets"]
    if logits_BLV.shape[-1] == 1:
        logits_BLV, targets_BL = jnp.pad(logits_BLV, ((0, 0), (0, 0), (1, 0))), targets_BL % 2
    token_logps_BL = jnp.take_along_axis(jax.nn.log_softmax(logits_BLV), targets_BL[..., None], -1)
    loss = -jnp.mean(token_logps_BL) + sum(jnp.mean(x) for x in jax.tree.leaves(sown))
    if getattr(model, "pooler", None) is not None:
        loss += jnp.mean(jnp.square(1.0 - model.apply({"params": params}, batch, method="classify")))
    return loss


@pytest.mark.parametrize("size", TINY)
def test_tiny_is_finite_and_learns(size):
    model = model_of(size, "--gin.SCAN=True")
    batch = batch_for(model, rows=2)
    params = jit(lambda key: nn.unbox(model.init(key, batch)["params"]))(jax.random.key(0))
    value_and_grad = jit(jax.value_and_grad(functools.partial(loss_of, model, batch)))
    before, grads = value_and_grad(params)
    assert np.isfinite(before) and all(np.any(g) and np.all(np.isfinite(g)) for g in jax.tree.leaves(grads))
    after, _ = value_and_grad(jax.tree.map(lambda p, g: p - 0.01 * g, params, grads))
    assert after < before


@pytest.mark.parametrize("size", [size for size in TINY if family_of(size) not in ENCODERS])
def test_a_decoder_never_reads_ahead(size):
    """Row i + 1 differs from row 0 in token i alone: its logits differ from i on, and nowhere before."""
    model, length = model_of(size, "--gin.SCAN=True"), 8
    batch = {name: np.repeat(x, length + 1, 0) for name, x in batch_of(1, length, 384).items()}
    for i in range(length):
        batch["decoder_input_tokens"][i + 1, i] = 3 + (batch["decoder_input_tokens"][0, i] + 7) % 300
    logits = np.asarray(jit(model.apply)({"params": random_params(model, batch)}, batch))
    for i in range(length):
        apart = np.abs(logits[i + 1] - logits[0]).max(-1)
        assert np.all(apart[:i] < 1e-5) and apart[i] > 1e-4


def test_a_permuted_encoder_reads_lower_ranks_alone():
    """Row i + 1 differs from row 0 in the token of rank i alone: the logits of higher ranks differ, and no others.

    Rank 0 is context and not predicted: its queries see no key.
    """
    model, length = model_of("sizes/xlnet/tiny.gin", "--gin.SCAN=True"), 8
    batch = {name: np.repeat(x, length + 1, 0) for name, x in batch_of(1, length, 384).items()}
    order_L = batch["encoder_order"][0]
    for i in range(length):
        batch["encoder_input_tokens"][i + 1, np.argmax(order_L == i)] += 1 if i % 2 else -1
    logits = np.asarray(jit(model.apply)({"params": random_params(model, batch)}, batch))
    for i in range(length):
        apart_L = np.abs(logits[i + 1] - logits[0]).max(-1)
        assert np.all(apart_L[(order_L > 0) & (order_L <= i)] < 1e-5) and np.all(apart_L[order_L > i] > 1e-4)


def test_references_inside_a_scope_see_its_bindings():
    model = model_of("sizes/t5_1_1/tiny.gin")
    assert model.encoder.position.bidirectional and not model.decoder.position.bidirectional
    assert model.encoder.block.cross is None and model.decoder.block.cross is not None
    assert model.encoder.block.mixer.mask is not model.decoder.block.mixer.mask


def test_both_layers_of_a_switch_pair_belong_to_their_side():
    model = model_of("sizes/switch_t5/tiny.gin")
    for stack, crossed in ((model.encoder, False), (model.decoder, True)):
        dense, sparse = stack.block.blocks
        assert [block.cross is not None for block in (dense, sparse)] == [crossed, crossed]
        assert dense.mixer.mask is sparse.mixer.mask
        assert type(dense.mlp).__name__ == "Mlp" and type(sparse.mlp).__name__ == "Moe"


def test_layers_of_a_pattern_see_as_far_as_published():
    gpt3, gemma2, gemma3 = (model_of(f"sizes/{name}/tiny.gin").decoder for name in ("gpt3", "gemma2", "gemma3"))
    assert [windowed(block) for block in gpt3.block.blocks] == [False, True]
    assert [windowed(block) for block in gemma2.block.blocks] == [True, False]
    layers = [*gemma3.block.blocks, *gemma3.tail.blocks]
    assert [windowed(layer.block) for layer in layers] == [True] * 5 + [False, True]
    assert [layer.position.base for layer in layers] == [1e4] * 5 + [1e6, 1e4]
    assert [layer.position.scaling is None for layer in layers] == [True] * 5 + [False, True]


def windowed(block: nn.Module) -> bool:
    return isinstance(block.mixer.mask, masks.Window)


def submodules(module: nn.Module):
    """Yields a module and all of its submodules."""
    yield module
    for field in dataclasses.fields(module):
        value = getattr(module, field.name)
        for inner in value if isinstance(value, list | tuple) else [value]:
            if isinstance(inner, nn.Module) and field.name != "parent":
                yield from submodules(inner)


@pytest.mark.parametrize("size", TINY)
def test_dropout_is_set_wherever_there_is_any(size):
    """On stacks, blocks and attention; inside MLPs only if the family has it."""
    for module in submodules(model_of(size, "--gin.DROPOUT=0.5")):
        if hasattr(module, "dropout") and not isinstance(module, mlp.Mlp):
            assert module.dropout == 0.5, type(module).__name__


@pytest.mark.parametrize("size", [f"sizes/{name}/tiny.gin" for name in ("gpt2", "mixtral", "t5_1_1", "bert")])
def test_dropout_reaches_the_model(size):
    model = model_of(size, "--gin.DROPOUT=0.5", "--gin.SCAN=True")
    batch = batch_for(model, rows=1)
    params = random_params(model, batch)

    @jit
    def logits(key):
        return model.apply({"params": params}, batch, train=True, rngs={"dropout": key})

    one, two = logits(jax.random.key(1)), logits(jax.random.key(2))
    assert np.all(np.isfinite(one)) and np.any(np.abs(one - two) > 1e-3)


@pytest.mark.parametrize(
    ("size", "name", "stddev"),
    [
        ("gpt2/small", ("decoder", "layers", "mixer", "out", "kernel"), 0.02 / math.sqrt(24)),
        ("gpt2/small", ("decoder", "layers", "mlp", "down", "kernel"), 0.02 / math.sqrt(24)),
        ("gpt2/small", ("embed", "table"), 0.02),
        ("t5_1_1/small", ("decoder", "layers", "cross", "query", "kernel"), (512 * 64) ** -0.5),
        ("t5_1_1/small", ("decoder", "layers", "cross", "key", "kernel"), 512**-0.5),
        ("t5_1_1/small", ("encoder", "layers", "mlp", "down", "kernel"), 1024**-0.5),
        ("t5_1_1/small", ("embed", "table"), 1.0),
    ],
)
def test_initial_standard_deviation_is_the_published_one(size, name, stddev):
    model = model_of(f"sizes/{size}.gin", "--gin.VOCAB_SIZE=384")

    def init_leaf(key):
        params = nn.unbox(model.init(key, batch_of(1, 2, 9))["params"])
        for part in name:
            params = params[part]
        return params

    # Only one leaf is initialised: XLA removes what a jitted function does not return.
    assert np.std(jax.jit(init_leaf)(jax.random.key(0))) == pytest.approx(stddev, rel=0.02)

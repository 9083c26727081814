"""Every architecture and size in gin: as many parameters as published, all of them named, and every tiny one learns."""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.core import meta

from t5x_like.cli import gin_runtime
from tests.models.contexts import drawn

CONFIGS = Path(__file__).resolve().parents[1] / "gin_configs"
SIZES = sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.glob("sizes/*/*.gin"))
TINY = [size for size in SIZES if size.endswith("/tiny.gin")]
AXES = {"embed", "vocab", "heads", "kv_heads", "head_dim", "mlp", "expert", "layers"} | {
    "position", "relpos", "norm", "router"
}  # fmt: skip

# Released checkpoints' counts. BERT's have a pooler, which we do not build, and lack the masked-LM head, which we do.
BERT_POOLER = {width: width * width + width for width in (768, 1024)}
BERT_HEAD = {width: (width * width + width) + 2 * width + 30522 for width in (768, 1024)}
# Switch: published as 7.4B. Embedding, 36 attentions, 12 dense MLPs, 12 x 128 experts with routers, norms, biases.
SWITCH = (
    32128 * 768 + 36 * 4 * 768**2 + 12 * 2 * 768 * 3072 + 12 * 128 * (2 * 768 * 3072 + 768)
    + (2 * 12 + 3 * 12 + 2) * 768 + 2 * 32 * 12
)  # fmt: skip
PUBLISHED = {
    "gpt2/small": 124_439_808,
    "gpt2/medium": 354_823_168,
    "gpt2/large": 774_030_080,
    "gpt2/xl": 1_557_611_200,
    "llama/7b": 6_738_415_616,
    "llama/13b": 13_015_864_320,
    "llama/33b": 32_528_943_616,
    "llama/65b": 65_285_660_672,
    "t5_1_1/small": 76_961_152,
    "t5_1_1/base": 247_577_856,
    "t5_1_1/large": 783_150_080,
    "t5_1_1/xl": 2_849_757_184,
    "t5_1_1/xxl": 11_135_332_352,
    "bert/base": 109_482_240 - BERT_POOLER[768] + BERT_HEAD[768],
    "bert/large": 335_141_888 - BERT_POOLER[1024] + BERT_HEAD[1024],
    "mixtral/8x7b": 46_702_792_704,
    "switch_t5/base_128": SWITCH,
}


def model_of(gin_file: str, *overrides: str) -> nn.Module:
    """The MODEL that a gin file describes."""
    return gin_runtime.parse([gin_file], overrides).evaluate("%MODEL")


def batch_of(rows: int, length: int, vocab_size: int, seed: int = 0) -> dict[str, np.ndarray]:
    """One segment a row, both sides."""
    rng, batch = np.random.RandomState(seed), {}
    for side in ("encoder", "decoder"):
        batch[f"{side}_input_tokens"] = rng.randint(3, vocab_size, (rows, length)).astype(np.int32)
        batch[f"{side}_positions"] = np.tile(np.arange(length, dtype=np.int32), (rows, 1))
        batch[f"{side}_segment_ids"] = np.ones((rows, length), np.int32)
    batch["encoder_token_types"] = np.zeros((rows, length), np.int32)
    batch["targets"] = rng.randint(3, vocab_size, (rows, length)).astype(np.int32)
    return batch


def shapes(model: nn.Module):
    """The boxed parameter shapes of a model, nothing computed."""
    return jax.eval_shape(model.init, jax.random.key(0), batch_of(1, 8, 9))["params"]


@pytest.mark.parametrize("size", PUBLISHED)
def test_parameter_count_is_the_published_one(size):
    params = nn.unbox(shapes(model_of(f"sizes/{size}.gin")))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)) == PUBLISHED[size]


def test_every_size_file_is_counted_or_tiny():
    assert {f"sizes/{size}.gin" for size in PUBLISHED} | set(TINY) == set(SIZES)


@pytest.mark.parametrize("size", SIZES)
def test_every_parameter_names_its_axes(size):
    boxes = jax.tree.leaves(shapes(model_of(size)), is_leaf=lambda x: isinstance(x, meta.AxisMetadata))
    for box in boxes:
        assert isinstance(box, nn.LogicallyPartitioned), box
        assert len(box.names) == box.value.ndim and set(box.names) <= AXES, box


@pytest.mark.parametrize("size", TINY)
def test_tiny_is_finite_and_learns(size):
    model, batch = model_of(size, "--gin.SCAN=True"), batch_of(2, 8, 384)
    params = nn.unbox(jax.jit(model.init)(jax.random.key(0), batch)["params"])

    def loss(params):
        logits_BLV, sown = model.apply({"params": params}, batch, mutable=["losses"])
        logps_BLV = jax.nn.log_softmax(logits_BLV)
        token_logps = jnp.take_along_axis(logps_BLV, batch["targets"][..., None], -1)
        return -jnp.mean(token_logps) + sum(jnp.mean(x) for x in jax.tree.leaves(sown))

    value_and_grad = jax.jit(jax.value_and_grad(loss))
    before, grads = value_and_grad(params)
    assert np.isfinite(before) and all(np.any(g) and np.all(np.isfinite(g)) for g in jax.tree.leaves(grads))
    after, _ = value_and_grad(jax.tree.map(lambda p, g: p - 0.01 * g, params, grads))
    assert after < before


@pytest.mark.parametrize("size", [size for size in TINY if "bert" not in size])
def test_a_decoder_never_reads_ahead(size):
    """Row i + 1 differs from row 0 in token i alone: its logits differ from i on, and nowhere before."""
    model, length = model_of(size), 8
    batch = {name: np.repeat(x, length + 1, 0) for name, x in batch_of(1, length, 384).items()}
    for i in range(length):
        batch["decoder_input_tokens"][i + 1, i] = 3 + (batch["decoder_input_tokens"][0, i] + 7) % 300
    logits = np.asarray(jax.jit(model.apply)({"params": drawn(model, batch)}, batch))
    for i in range(length):
        apart = np.abs(logits[i + 1] - logits[0]).max(-1)
        assert np.all(apart[:i] < 1e-5) and apart[i] > 1e-4


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


@pytest.mark.parametrize("size", TINY)
def test_dropout_reaches_the_model(size):
    model, batch = model_of(size, "--gin.DROPOUT=0.5", "--gin.SCAN=True"), batch_of(1, 8, 384)
    params = drawn(model, batch)

    @jax.jit
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

    def drawn(key):
        params = nn.unbox(model.init(key, batch_of(1, 2, 9))["params"])
        for part in name:
            params = params[part]
        return params

    # Nothing but the one leaf is drawn: what a jitted function does not return, XLA leaves out.
    assert np.std(jax.jit(drawn)(jax.random.key(0))) == pytest.approx(stddev, rel=0.02)

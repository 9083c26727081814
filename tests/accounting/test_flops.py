"""FLOPs, active weights and caches against the counts of XLA, the cache of the model, and closed forms."""

import math

import jax
import pytest
from flax import linen as nn

from t5x_like.accounting import flops
from t5x_like.cli.gin import runtime
from t5x_like.models import (
    architectures,
    attention,
    blocks,
    heads,
    linear,
    masks,
    mlp,
    moe,
    positions,
    routers,
    stack,
    transformer_xl,
)
from tests import tiny

VOCAB, WIDTH, HEADS, HEAD_DIM, LENGTH = 512, 256, 4, 64, 64


def tower(causal=True, cross=False, mlps=None, scan=False, shared=False, repeats=2, mask=None) -> stack.Stack:
    """Returns a stack wide enough for matrix products to dominate the FLOPs."""
    mask = mask or (masks.causal if causal else masks.full)
    layers = [
        blocks.Block(
            mixer=attention.SelfAttention(HEADS, HEAD_DIM, num_kv_heads=2, mask=mask),
            cross=attention.CrossAttention(HEADS, HEAD_DIM) if cross else None,
            mlp=sublayer,
        )
        for sublayer in mlps or [mlp.Mlp(1024, gated=True)]
    ]
    block = layers[0] if len(layers) == 1 else blocks.Pattern(layers)
    return stack.Stack(block, repeats, positions.Rope(HEAD_DIM), scan=scan, shared=shared)


def decoder(head=None, **options) -> architectures.DecoderOnly:
    return architectures.DecoderOnly(linear.Embed(VOCAB, WIDTH), tower(**options), head or heads.Untied())


def narrow_table() -> architectures.DecoderOnly:
    """Returns a model with a table half its width, projections after it and before the head (OPT 350M), and a tail."""
    embed = linear.Projected(linear.Embed(VOCAB, WIDTH // 2), WIDTH)
    block = blocks.Block(attention.SelfAttention(HEADS, HEAD_DIM), mlp.Mlp(1024))
    tail = stack.Stack(block, 1, positions.Rope(HEAD_DIM), tail=block.copy(), scan=False)
    return architectures.DecoderOnly(embed, tail, heads.Projected(heads.Tied(), WIDTH // 2))


def encoder_decoder(**options) -> architectures.EncoderDecoder:
    towers = tower(causal=False, **options), tower(cross=True, **options)
    return architectures.EncoderDecoder(linear.Embed(VOCAB, WIDTH), *towers, heads.Tied())


def tower_of_encoders() -> architectures.EncoderOnly:
    return architectures.EncoderOnly(linear.Embed(VOCAB, WIDTH), tower(causal=False), heads.MaskedLM())


def sparse(top_k: int, experts: int = 4) -> moe.Moe:
    return moe.Moe(routers.TopK(experts, top_k), 512, gated=True, dispatch=moe.dense)


def batch_of(model, length=LENGTH):
    return tiny.batch(1, length, [side for side in ("encoder", "decoder") if hasattr(model, side)])


def boxed(model, batch=None):
    return jax.eval_shape(model.init, jax.random.key(0), batch or batch_of(model))["params"]


def count_row(model, **lengths) -> flops.Flops:
    return flops.per_row(model, boxed(model), lengths)


def xla_counts(model, batch) -> float:
    params = jax.eval_shape(lambda: nn.unbox(model.init(jax.random.key(0), batch)["params"]))
    return jax.jit(lambda p: model.apply({"params": p}, batch)).lower(params).compile().cost_analysis()["flops"]


# Attention is at least a tenth of the FLOPs; encoder rows are twice as long as decoder rows.
@pytest.mark.parametrize(
    "model, lengths, causal_layers",
    [
        (decoder(), {"decoder": 512}, 2),
        (decoder(heads.Tied()), {"decoder": 512}, 2),
        (decoder(mlps=[mlp.Mlp(1024), sparse(4)]), {"decoder": 512}, 4),  # every expert is chosen
        (narrow_table(), {"decoder": 512}, 2),
        (tower_of_encoders(), {"encoder": 512}, 0),
        (encoder_decoder(), {"encoder": 1024, "decoder": 512}, 2),
    ],
    ids=["decoder", "tied", "experts", "narrow_table", "encoder", "encoder_decoder"],
)
def test_forward_flops_equal_the_count_of_xla(model, lengths, causal_layers):
    batch = {}
    for side, length in lengths.items():
        batch |= tiny.batch(1, length, [side])
    count = flops.per_row(model, boxed(model, batch), lengths)
    assert count.attention > 0.1 * count.weights
    # XLA also counts products with the keys that the causal mask hides.
    hidden = causal_layers * 4 * HEADS * HEAD_DIM * lengths.get("decoder", 0) ** 2 / 2
    assert count.forward + hidden == pytest.approx(xla_counts(model, batch), rel=0.03)


def test_scanned_unrolled_and_shared_layers_cost_the_same():
    unrolled, scanned, shared = (count_row(decoder(**o), decoder=64) for o in ({}, {"scan": True}, {"shared": True}))
    assert unrolled == scanned == shared
    sizes = [sum(w.size for w in flops.list_weights(m, boxed(m))) for m in (decoder(), decoder(shared=True))]
    assert sizes[1] < sizes[0]


def test_llama_7b_costs_six_times_its_weights_and_attention():
    model = runtime.parse(["sizes/llama/7b.gin"]).evaluate("%MODEL")
    row = flops.per_row(model, boxed(model), {"decoder": 2048})
    used = 6_738_415_616 - 32000 * 4096  # without the table that is looked up
    assert row.train == 6 * used * 2048 + 6 * 32 * 4096 * 2048**2


def test_every_mixture_counts_its_own_router():
    model = decoder(mlps=[sparse(1), sparse(2), mlp.Mlp(1024)])
    shares_by_path = {
        w.path: w.share
        for w in flops.list_weights(model, boxed(model))
        if w.path.endswith("up/kernel") or "expert" in w.names
    }
    shares = [{share for path, share in shares_by_path.items() if f"blocks_{i}/" in path} for i in range(3)]
    assert shares == [{0.25}, {0.5}, {1.0}]


def test_expert_choice_costs_its_capacity():
    choice = moe.Moe(routers.ExpertChoice(8, factor=2.0), 512, dispatch=moe.expert_choice)
    assert flops.experts_per_token(choice) == 2.0


def test_only_the_chosen_experts_count():
    batch = tiny.batch(rows=1)
    dense, chosen = (
        flops.per_row(m, boxed(m, batch), {"decoder": 12}) for m in (tiny.decoder(), tiny.decoder(experts=True))
    )
    products, router = 2 * 2 * 3 * 32 * 64 * 12, 2 * 2 * 32 * 4 * 12
    assert chosen.weights - dense.weights == pytest.approx(products + router)  # two of four experts, and the router


@pytest.mark.parametrize("size", [1, 7, 32])
def test_a_window_counts_its_visible_pairs(size):
    visible = sum(min(i + 1, size) for i in range(LENGTH))
    count = count_row(decoder(mask=masks.Window(size)), decoder=LENGTH)
    assert count.attention == 2 * 4 * HEADS * HEAD_DIM * visible
    assert count.weights == count_row(decoder(), decoder=LENGTH).weights


@pytest.mark.parametrize("size", [LENGTH - 1, LENGTH, 10 * LENGTH])
def test_a_window_as_long_as_the_row_changes_nothing(size):
    assert count_row(decoder(mask=masks.Window(size)), decoder=LENGTH) == count_row(decoder(), decoder=LENGTH)


def test_relative_attention_also_scores_distances():
    block = blocks.Block(transformer_xl.RelativeAttention(HEADS, HEAD_DIM), mlp.Mlp(1024))
    model = architectures.DecoderOnly(linear.Embed(VOCAB, WIDTH), stack.Stack(block, 2), heads.Untied())
    plain = model.clone(decoder=stack.Stack(block.copy(mixer=attention.SelfAttention(HEADS, HEAD_DIM)), 2))
    ours, theirs = count_row(model, decoder=LENGTH), count_row(plain, decoder=LENGTH)
    assert ours.attention == 1.5 * theirs.attention
    biases = (
        2 * 2 * 2 * HEADS * HEAD_DIM * LENGTH
    )  # two vectors per layer; distances are encoded once per batch, not per row
    assert ours.weights - theirs.weights == biases


def test_a_decoded_token_costs_a_row_of_one_token_and_its_context():
    model = decoder()
    token = flops.per_decoded_token(model, boxed(model), 100)
    assert token.weights == count_row(model, decoder=1).weights
    assert token.attention == 2 * 4 * HEADS * HEAD_DIM * 100
    windowed = decoder(mask=masks.Window(7))
    assert flops.per_decoded_token(windowed, boxed(windowed), 100).attention == 2 * 4 * HEADS * HEAD_DIM * 7
    assert flops.per_decoded_token(windowed, boxed(windowed), 3).attention == 2 * 4 * HEADS * HEAD_DIM * 3


def test_a_decoded_token_reads_the_memory_but_does_not_project_it():
    model = encoder_decoder()
    without_memory, with_memory = (flops.per_decoded_token(model, boxed(model), 10, memory) for memory in (0, 50))
    assert without_memory.weights == with_memory.weights
    assert with_memory.attention - without_memory.attention == 2 * 4 * HEADS * HEAD_DIM * 50


@pytest.mark.parametrize(
    "model",
    [decoder(), decoder(scan=True), decoder(shared=True), decoder(mask=masks.Window(4)), encoder_decoder()],
    ids=["unrolled", "scanned", "shared", "windowed", "encoder_decoder"],
)
def test_the_cache_size_equals_the_cache_of_the_model(model):
    context, batch = 24, batch_of(model, 16)
    variables = {"params": nn.unbox(boxed(model, batch))}
    _, updated = jax.eval_shape(lambda v: model.apply(v, batch, decode_length=context, mutable=["cache"]), variables)
    leaves = jax.tree_util.tree_leaves_with_path(updated["cache"])
    size = sum(math.prod(x.shape) for path, x in leaves if "_cache" in jax.tree_util.keystr(path[-1:]))
    memory = 16 if model.encoder_decoder else 0
    cache = flops.cache_size(model, boxed(model, batch), context, memory)
    assert cache.per_sequence == size
    assert cache.per_token == 2 * 2 * 2 * HEAD_DIM  # layers, keys and values, heads of them
    assert cache.read <= size


def test_only_a_head_that_reads_the_table_counts_it():
    tied, untied = decoder(heads.Tied()), decoder()
    assert count_row(tied, decoder=LENGTH) == count_row(untied, decoder=LENGTH)
    assert flops.reads_table(tied.head) and flops.reads_table(heads.SoftCapped(heads.Tied(), 30.0))
    assert not flops.reads_table(heads.Detector()) and not flops.reads_table(heads.states)

"""Attention kernels against a slow loop and against the attention of jax.nn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from t5x_like.models import blocks, kernels, masks, stack
from t5x_like.models.attention import SelfAttention
from t5x_like.models.context import Context, TokenInfo
from tests.models.contexts import array

B, L, M, H, K = 2, 5, 7, 4, 8


def inputs(groups, seed=0):
    mask = np.random.default_rng(seed).random((B, L, M)) < 0.6
    mask[:, :, 0] = True
    qkv = array(B, L, H, K), array(B, M, groups, K, seed=1), array(B, M, groups, K, seed=2)
    return *qkv, array(1, H, L, M, seed=3), mask


def slow(q, k, v, bias, mask, scale, cap=None):
    y = np.zeros(q.shape)
    for b, i, h in np.ndindex(B, L, H):
        g = h // (H // k.shape[2])
        visible = [j for j in range(M) if mask[b, i, j]]
        scores = np.array([scale * np.dot(q[b, i, h], k[b, j, g]) for j in visible])
        scores = (scores if cap is None else cap * np.tanh(scores / cap)) + (
            0 if bias is None else bias[0, h, i, visible]
        )
        probs = np.exp(scores - scores.max())
        y[b, i, h] = (probs / probs.sum()) @ v[b, visible, g]
    return y


@pytest.mark.parametrize("cap", [None, 0.7])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_reference_equals_the_slow_loop(groups, cap):
    q, k, v, bias, mask = inputs(groups)
    y = kernels.reference(q, k, v, bias, mask, 0.3, cap=cap)
    np.testing.assert_allclose(y, slow(q, k, v, bias, mask, 0.3, cap), atol=1e-5)
    np.testing.assert_array_equal(kernels.automatic(q, k, v, bias, mask, 0.3, cap=cap), y)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("biased", [True, False])
def test_reference_equals_the_attention_of_jax(groups, biased):
    q, k, v, bias, mask = inputs(groups)
    bias = bias if biased else None

    def ours(q, k, v):
        return jnp.sum(jnp.sin(kernels.reference(q, k, v, bias, mask, K**-0.5)))

    def theirs(q, k, v):
        return jnp.sum(jnp.sin(jax.nn.dot_product_attention(q, k, v, bias=bias, mask=mask[:, None])))

    both = jax.jit(lambda *qkv: tuple(jax.value_and_grad(f, (0, 1, 2))(*qkv) for f in (ours, theirs)))
    for mine, other in zip(*map(jax.tree.leaves, both(q, k, v)), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-5)


def test_masks_and_biases_are_shared_or_per_row():
    q, k, v, bias, mask = inputs(2)
    one = kernels.reference(q, k, v, bias, mask[:1], 0.3)
    tiled = lambda bias: jnp.tile(bias, (B, 1, 1, 1))  # noqa: E731
    each = kernels.reference(q, k, v, tiled(bias), np.tile(mask[:1], (B, 1, 1)), 0.3)
    np.testing.assert_allclose(one, each, atol=1e-6)
    loss = lambda spread: lambda bias: jnp.sum(kernels.reference(q, k, v, spread(bias), mask, 0.3) ** 2)  # noqa: E731
    np.testing.assert_allclose(jax.grad(loss(jnp.asarray))(bias), jax.grad(loss(tiled))(bias), atol=1e-5)


def test_a_query_that_sees_nothing_gets_the_mean_and_finite_gradients():
    q, k, v, bias, mask = inputs(2)
    mask[0, 1] = False
    y = kernels.reference(q, k, v, bias, mask, 0.3)
    np.testing.assert_allclose(y[0, 1], np.repeat(v[0].mean(0), 2, 0), atol=1e-5)
    grads = jax.jit(jax.grad(lambda *qkv: jnp.sum(kernels.reference(*qkv, bias, mask, 0.3) ** 2), (0, 1, 2)))(q, k, v)
    assert all(np.all(np.isfinite(g)) for g in grads)


def test_a_soft_cap_bounds_scores_and_keeps_gradients_finite():
    q, k, v, _, mask = inputs(2)
    mask[0, 1] = False

    def attended(q, k, v, cap):
        return kernels.reference(q, k, v, None, mask, 1.0, cap=cap)

    grads = jax.jit(jax.grad(lambda *qkv: jnp.sum(jnp.sin(attended(*qkv, 5.0))), (0, 1, 2)))(1e4 * q, 1e4 * k, v)
    assert all(np.all(np.isfinite(g)) for g in grads) and np.any(grads[2])
    # A huge cap has no effect; with a tiny cap all visible keys have equal weight.
    np.testing.assert_allclose(attended(q, k, v, 1e4), attended(q, k, v, None), atol=1e-4)
    mean = np.einsum("BLM,BMGK->BLGK", mask / np.maximum(mask.sum(-1, keepdims=True), 1), v)
    np.testing.assert_allclose(attended(q, k, v, 1e-6)[1], np.repeat(mean, 2, 2)[1], atol=1e-5)


def test_large_scores_are_computed_in_float32():
    q, k, v, _, mask = inputs(4)
    q, k, v = (jnp.asarray(x, jnp.bfloat16) for x in (40 * q, 40 * k, v))
    y = kernels.reference(q, k, v, None, mask, 1.0)
    exact = kernels.reference(*(x.astype(jnp.float32) for x in (q, k, v)), None, mask, 1.0)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y.astype(np.float32), exact, atol=0.05)


def test_drop_acts_on_the_probabilities():
    q, k, v, bias, mask = inputs(2)
    y = kernels.reference(q, k, v, bias, mask, 0.3)
    np.testing.assert_allclose(kernels.reference(q, k, v, bias, mask, 0.3, lambda p: 2 * p), 2 * y, rtol=1e-5)
    np.testing.assert_array_equal(kernels.reference(q, k, v, bias, mask, 0.3, jnp.zeros_like), 0 * y)


@pytest.mark.parametrize("option", ["bias", "drop", "cap"])
def test_cudnn_refuses_unsupported_options_and_is_not_selected(option, monkeypatch):
    q, k, v, bias, mask = inputs(2)
    options = {"bias": None, "drop": None, "cap": None} | {option: {"bias": bias, "drop": jnp.sin, "cap": 30.0}[option]}
    with pytest.raises(ValueError, match=r"no attention bias, dropout or soft cap; use kernels.reference"):
        kernels.cudnn(q, k, v, options["bias"], mask, 0.3, options["drop"], options["cap"])
    half = jnp.asarray(q, jnp.bfloat16)
    assert kernels.select(half, None, None, None) is kernels.reference  # on a CPU
    monkeypatch.setattr(kernels, "compute_capability", lambda: (7, 5))
    assert kernels.select(half, None, None, None) is kernels.reference
    monkeypatch.setattr(kernels, "compute_capability", lambda: (8, 0))
    assert kernels.select(half, None, None, None) is kernels.cudnn
    assert kernels.select(half, options["bias"], options["drop"], options["cap"]) is kernels.reference


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_cudnn_pads_odd_lengths_with_keys_that_no_query_sees(groups, monkeypatch):
    q, k, v, _, mask = inputs(groups)  # 5 queries, 7 keys
    lengths, original = [], jax.nn.dot_product_attention

    def attention(q, k, v, implementation, **options):
        lengths.append((q.shape[1], k.shape[1]))
        return original(q, k, v, **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", attention)
    np.testing.assert_allclose(kernels.cudnn(q, k, v, None, mask, 0.3), slow(q, k, v, None, mask, 0.3), atol=1e-5)
    assert lengths == [(6, 8)]


def test_segments_are_runs_of_equal_numbers_and_padding_is_one():
    segments = jnp.asarray([[1, 1, 1, 2, 2, 0], [0, 0, 4, 4, 4, 4], [7, 7, 7, 7, 7, 7]])
    sizes, starts, fits = kernels.find_segments(segments, 3)
    np.testing.assert_array_equal(sizes, [[3, 2, 1], [2, 4, -1], [6, -1, -1]])
    np.testing.assert_array_equal(starts, [[0, 3, 5], [0, 2, -1], [0, -1, -1]])
    np.testing.assert_array_equal(fits, [True, True, True])
    np.testing.assert_array_equal(kernels.find_segments(segments, 2)[2], [False, True, True])


def segments_attention(q, k, v, sizes_BS, starts_BS, scale):
    """What cuDNN's kernel for packed rows computes."""
    index = jnp.arange(q.shape[1])
    run = jnp.sum((index[:, None] >= starts_BS[:, None]) & (starts_BS[:, None] >= 0), -1)
    return kernels.reference(q, k, v, None, (run[:, :, None] == run[:, None, :]) & (index[:, None] >= index), scale)


@pytest.mark.parametrize("capability", [(9, 0), (8, 6)])
def test_packed_attends_inside_segments_or_is_nan(capability, monkeypatch):
    monkeypatch.setattr(kernels, "compute_capability", lambda: capability)
    monkeypatch.setattr(kernels, "attend_to_segments", segments_attention)
    monkeypatch.setattr(kernels, "cudnn", lambda *arguments: kernels.reference(*arguments))
    segments = jnp.asarray([[1, 1, 1, 2, 2, 2, 0], [1, 1, 1, 1, 1, 1, 1]])
    mask = jnp.tril(jnp.ones((7, 7), bool)) & (segments[:, :, None] == segments[:, None, :])
    qkv = [jnp.asarray(array(2, 7, g, K, seed=g), jnp.bfloat16) for g in (H, 2, 2)]
    want = kernels.reference(*qkv, None, mask, 0.3)
    for most in (3, 4):  # of 7 tokens and one that is added, in the first row
        y = kernels.Packed(most)(*qkv, None, mask, 0.3, causal_BL=segments)
        np.testing.assert_allclose(np.float32(y), np.float32(want), atol=0.02)
    few = kernels.Packed(2)(*qkv, None, mask, 0.3, causal_BL=segments)
    np.testing.assert_allclose(np.float32(few[1]), np.float32(want[1]), atol=0.02)
    assert np.all(np.isnan(np.float32(few[0]))) == (capability == (9, 0))


def test_packed_is_automatic_for_other_masks(monkeypatch):
    monkeypatch.setattr(kernels, "compute_capability", lambda: (9, 0))
    monkeypatch.setattr(kernels, "cudnn", lambda *_: "cudnn")
    q, k, v, bias, mask = inputs(2)
    half = [jnp.asarray(x, jnp.bfloat16) for x in (q, k, v)]
    assert kernels.Packed()(*half, None, mask, 0.3) == "cudnn"
    y = kernels.Packed()(q, k, v, bias, mask, 0.3, causal_BL=jnp.ones((B, L), int))
    np.testing.assert_array_equal(y, kernels.reference(q, k, v, bias, mask, 0.3))


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("mask", [masks.causal, masks.Window(3)])
@pytest.mark.parametrize("kernel", [kernels.automatic, kernels.Packed()])
def test_packed_rows_are_lowered_to_cudnn(kv_heads, scan, mask, kernel, monkeypatch):
    fused = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    monkeypatch.setattr(kernels, "compute_capability", lambda: (9, 0))
    monkeypatch.setattr(fused, "check_cudnn_version", lambda: 91000)  # it is lowered here, not compiled
    monkeypatch.setattr(fused, "check_compute_capability", lambda _: True)
    segments = jnp.asarray([[1, 1, 1, 2, 2, 3, 3]] * 2)
    info = TokenInfo(jnp.broadcast_to(jnp.arange(7), (2, 7)), segments)
    mixer = SelfAttention(num_heads=4, head_dim=8, num_kv_heads=kv_heads, mask=mask, kernel=kernel)
    layers = stack.Stack(blocks.Block(mixer, None), repeats=2, scan=scan)
    x = jnp.ones((2, 7, 16), jnp.bfloat16)
    params = jax.eval_shape(layers.init, jax.random.key(0), x, Context(info, info))

    def loss(params, x):
        return jnp.sum(layers.apply(params, x, Context(info, info)).astype(jnp.float32))

    program = jax.jit(jax.grad(loss)).trace(nn.unbox(params), x).lower(lowering_platforms=("cuda",)).as_text()
    packed = mask is masks.causal and kernel is not kernels.automatic
    for name in ("__cudnn$fmhaScaleBiasSoftmax", "__cudnn$fmhaScaleBiasSoftmaxBackward"):
        assert (f"{name}(" in program) == (not packed)
    for name in ("__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"):
        assert (f"{name}(" in program) == packed
    causal = r"mask_type\22: \22CAUSAL" in program  # the backend's configuration is a quoted string
    assert causal == (mask is masks.causal and not packed)

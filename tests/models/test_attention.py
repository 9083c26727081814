"""Self- and cross-attention: visibility, shared keys and values, norms and options."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import errors

from t5x_like.models import kernels, masks
from t5x_like.models.attention import CrossAttention, SelfAttention
from t5x_like.models.context import Context
from t5x_like.models.norms import RMSNorm
from t5x_like.models.positions import rotary_frequencies, rotate
from tests.models.contexts import array, context, random_params, token_info

H, K, D = 4, 8, 16


def self_params(groups, biased=False):
    names = {"query": (D, H, K), "key": (D, groups, K), "value": (D, groups, K), "out": (H, K, D)}
    params = {name: {"kernel": array(*shape, seed=i) / 4} for i, (name, shape) in enumerate(names.items())}
    if biased:
        for i, (name, shape) in enumerate(names.items()):
            params[name]["bias"] = array(*(shape[1:] if name != "out" else (D,)), seed=10 + i)
    return params


def rotation(segments, width=K):
    """Returns cos and sin of the angles of Rope(width)."""
    angles_BLK = context(segments).queries.positions_BL[..., None] * rotary_frequencies(width, 1e4)
    return jnp.cos(angles_BLK), jnp.sin(angles_BLK)


@pytest.mark.parametrize("groups", [1, 2])
def test_grouped_and_multi_query_equal_multi_head_with_repeated_heads(groups):
    segments = [[1, 1, 1, 2, 2, 2]] * 2
    x, ctx = array(2, 6, D), context(segments, rotary=rotation(segments))
    grouped = self_params(groups, biased=True)
    whole = jax.tree.map(lambda p: p, grouped)
    for name in ("key", "value"):
        whole[name] = {part: np.repeat(p, H // groups, axis=-2) for part, p in grouped[name].items()}
    y = SelfAttention(H, K, groups, use_bias=True).apply({"params": grouped}, x, ctx)
    z = SelfAttention(H, K, use_bias=True).apply({"params": whole}, x, ctx)
    np.testing.assert_allclose(y, z, atol=1e-5)


def test_self_attention_matches_its_formula():
    x, ctx, params = array(1, 5, D), context([[1, 1, 1, 2, 0]]), self_params(H, biased=True)

    def heads(name):
        return np.einsum("BLD,DHK->BLHK", x, params[name]["kernel"]) + params[name]["bias"]

    q, k, v = heads("query"), heads("key"), heads("value")
    y = SelfAttention(H, K, use_bias=True).apply({"params": params}, x, ctx)
    for i, seen in enumerate(([0], [0, 1], [0, 1, 2], [3])):
        scores = np.einsum("HK,MHK->HM", q[0, i], k[0, seen]) / np.sqrt(K)
        probs = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
        mixed = np.einsum("HM,MHK->HK", probs, v[0, seen])
        expected = np.einsum("HK,HKD->D", mixed, params["out"]["kernel"]) + params["out"]["bias"]
        np.testing.assert_allclose(y[0, i], expected, atol=1e-4)


@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_queries_and_keys_are_normalized_and_then_rotated(dims, groups):
    x, segments, params = array(1, 5, D), [[1] * 5], self_params(groups)
    shapes = {"query": (H, K)[-dims:], "key": (groups, K)[-dims:]}
    scales = {name: array(*shape, seed=20 + i) for i, (name, shape) in enumerate(shapes.items())}
    specs = []

    def kernel(q, k, v, *others):
        specs.extend((q, k, v))
        return kernels.reference(q, k, v, *others)

    attention = SelfAttention(H, K, groups, qk_norm=RMSNorm(dims=dims), kernel=kernel)
    normed = params | {f"{name}_norm": {"scale": scale} for name, scale in scales.items()}
    attention.apply({"params": normed}, x, context(segments, rotary=rotation(segments)))
    for name, ours in zip(("query", "key", "value"), specs, strict=True):
        y = np.einsum("BLD,DHK->BLHK", x, params[name]["kernel"])
        if name != "value":
            y = y / np.sqrt(np.mean(y**2, (-1, -2)[:dims], keepdims=True) + 1e-6) * scales[name]
            y = rotate(jnp.asarray(y), rotation(segments))
        np.testing.assert_allclose(ours, y, atol=1e-5)


def test_queries_and_keys_have_separate_norms():
    params = random_params(SelfAttention(H, K, 2, qk_norm=RMSNorm(dims=2)), array(1, 2, D), context([[1, 1]]))
    assert {name: params[name]["scale"].shape for name in params if name.endswith("norm")} == {
        "query_norm": (H, K),
        "key_norm": (2, K),
    }


@pytest.mark.parametrize(("use_bias", "out_bias"), [(True, False), (False, True), (True, None), (False, None)])
def test_the_output_bias_is_a_separate_option(use_bias, out_bias):
    attention = SelfAttention(H, K, use_bias=use_bias, out_bias=out_bias)
    x, params = array(1, 3, D), self_params(H, biased=True)
    expected = {name: use_bias for name in ("query", "key", "value")} | {
        "out": use_bias if out_bias is None else out_bias
    }
    fresh = random_params(attention, x, context([[1] * 3]))
    assert {name: "bias" in part for name, part in fresh.items()} == expected
    masked = {name: {**part, "bias": part["bias"] * expected[name]} for name, part in params.items()}
    subset = {name: {key: part[key] for key in fresh[name]} for name, part in params.items()}
    full = SelfAttention(H, K, use_bias=True).apply({"params": masked}, x, context([[1] * 3]))
    np.testing.assert_allclose(attention.apply({"params": subset}, x, context([[1] * 3])), full, atol=1e-5)


def test_the_soft_cap_is_passed_to_the_kernel():
    x, ctx, params = array(1, 5, D), context([[1] * 5]), {"params": self_params(H)}

    def capped(*arguments):
        return kernels.reference(*arguments[:7], 0.1)

    y = SelfAttention(H, K, soft_cap=0.1).apply(params, x, ctx)
    np.testing.assert_array_equal(y, SelfAttention(H, K, kernel=capped).apply(params, x, ctx))
    assert np.any(np.abs(y - SelfAttention(H, K).apply(params, x, ctx)) > 1e-3)


def test_scale_defaults_to_the_inverse_root_of_the_head_dim():
    x, ctx, params = array(1, 5, D), context([[1] * 5]), {"params": self_params(H)}
    default = SelfAttention(H, K).apply(params, x, ctx)
    np.testing.assert_array_equal(SelfAttention(H, K, scale=K**-0.5).apply(params, x, ctx), default)
    assert np.any(np.abs(SelfAttention(H, K, scale=1.0).apply(params, x, ctx) - default) > 1e-3)


def test_the_bias_of_the_context_is_added_to_the_scores():
    x, params = array(1, 3, D), {"params": self_params(H)}
    only_self = np.where(np.eye(3, dtype=bool), 0.0, -1e9)[None, None].repeat(H, 1)
    y = SelfAttention(H, K, mask=masks.full).apply(params, x, context([[1, 1, 1]], bias_AHLM=jnp.asarray(only_self)))
    separate = SelfAttention(H, K, mask=masks.full).apply(params, x, context([[1, 2, 3]]))
    np.testing.assert_allclose(y, separate, atol=1e-5)


def test_cross_attention_sees_only_memory_of_the_same_segment():
    params = {"params": self_params(H)}
    queries, memory = token_info([[1, 1, 2, 0]]), token_info([[1, 2, 2, 2, 0]])

    def attended(memory_BMD):
        ctx = Context(queries, queries, memory_BMD=memory_BMD, memory=memory)
        return np.asarray(CrossAttention(H, K).apply(params, array(1, 4, D, seed=5), ctx))

    base = array(1, 5, D, seed=6)
    for slot, readers in ((0, {0, 1}), (1, {2}), (3, {2}), (4, set())):
        changed = base.copy()
        changed[0, slot] += 1.0
        differs = np.abs(attended(changed) - attended(base))[0].max(-1) > 1e-4
        assert set(np.flatnonzero(differs[:3])) == readers


def test_indivisible_heads_are_refused():
    with pytest.raises(ValueError, match=r"num_heads=4 is not a multiple of num_kv_heads=3"):
        jax.eval_shape(SelfAttention(4, K, 3).init, jax.random.key(0), array(1, 2, D), context([[1, 1]]))


def test_parameters_are_named():
    params = jax.eval_shape(SelfAttention(H, K, 2, True).init, jax.random.key(0), array(1, 2, D), context([[1, 1]]))
    names = jax.tree.map(lambda box: box.names, params["params"], is_leaf=lambda x: hasattr(x, "names"))
    assert names["query"] == {"kernel": ("embed", "heads", "head_dim"), "bias": ("heads", "head_dim")}
    assert names["value"] == {"kernel": ("embed", "kv_heads", "head_dim"), "bias": ("kv_heads", "head_dim")}
    assert names["out"] == {"kernel": ("heads", "head_dim", "embed"), "bias": ("embed",)}


def test_dropout_needs_training_and_a_key():
    attention, x, params = SelfAttention(H, K, dropout=0.5), array(1, 6, D), {"params": self_params(H)}
    plain = SelfAttention(H, K).apply(params, x, context([[1] * 6]))
    np.testing.assert_array_equal(attention.apply(params, x, context([[1] * 6])), plain)
    training = context([[1] * 6], train=True)
    dropped = attention.apply(params, x, training, rngs={"dropout": jax.random.key(0)})
    assert np.any(np.abs(dropped - plain) > 1e-3)
    with pytest.raises(errors.InvalidRngError, match="dropout"):
        attention.apply(params, x, training)


def test_the_kernel_is_configurable():
    x, params = array(1, 3, D), {"params": self_params(H)}

    def doubled(*arguments):
        return 2 * kernels.reference(*arguments)

    once = SelfAttention(H, K).apply(params, x, context([[1, 1, 1]]))
    twice = SelfAttention(H, K, kernel=doubled).apply(params, x, context([[1, 1, 1]]))
    np.testing.assert_allclose(twice, 2 * once, atol=1e-5)

"""Transformer-XL's attention against a loop over queries, heads and keys, and `shift_scores`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_like.models import masks
from t5x_like.models.context import Context
from t5x_like.models.transformer_xl import RelativeAttention, shift_scores
from tests.models.contexts import array, random_params, token_info

H, K, D, L = 2, 4, 6, 7
SEGMENTS = [[1, 1, 1, 1, 2, 2, 0], [1, 1, 2, 2, 2, 2, 2]]
TYPES = jnp.array([[0, 0, 1, 1, 0, 1, 0], [2, 0, 0, 1, 1, 1, 2]])
ORDER = jnp.array([[2, 0, 3, 1, 1, 0, 0], [1, 0, 4, 3, 0, 1, 2]])


def encode_distance(distance):
    """Returns [sin, cos] of one distance, frequencies 10000^(-2i/D)."""
    angles = [distance / 10000 ** (2 * i / D) for i in range(D // 2)]
    return np.array([np.sin(a) for a in angles] + [np.cos(a) for a in angles])


def slow(params, x, ctx, mask, scale):
    """[(q + u) k + (q + v) r(i - j) + (q + s) e] * scale + bias, one score at a time; 0 for queries that see no key."""
    rows, queries, _ = x.shape
    q, k, v = (np.einsum("BLD,DHK->BLHK", x, params[name]["kernel"]) for name in ("query", "key", "value"))
    visible = np.asarray(mask(ctx.queries, ctx.keys) & masks.same_segment(ctx.queries, ctx.keys))
    y = np.zeros(q.shape)
    for b, i, h in np.ndindex(rows, queries, H):
        scores = np.full(L, -np.inf)
        for j in np.flatnonzero(visible[b, i]):
            r = encode_distance(i % L - j) @ params["relative"]["kernel"][:, h]
            scores[j] = (q[b, i, h] + params["content_bias"][h]) @ k[b, j, h]
            scores[j] += (q[b, i, h] + params["distance_bias"][h]) @ r
            if "type_bias" in params:
                other = int(ctx.queries.types_BL[b, i] != ctx.keys.types_BL[b, j])
                scores[j] += (q[b, i, h] + params["type_bias"][h]) @ params["type_table"][other, h]
            scores[j] = scale * scores[j] + (0 if ctx.bias_AHLM is None else ctx.bias_AHLM[0, h, i, j])
        if visible[b, i].any():
            weights = np.exp(scores - scores.max())
            y[b, i, h] = weights / weights.sum() @ v[b, :L, h]
    return np.einsum("BLHK,HKD->BLD", y, params["out"]["kernel"]), visible.any(-1)


def check(attention, x, ctx, scale=K**-0.5):
    # Parameters large enough to detect a wrong distance or type.
    params = jax.tree.map(lambda p: 3 * p, random_params(attention, x, ctx))
    y = jax.jit(attention.apply)({"params": params}, x, ctx)
    expected, real = slow(params, x, ctx, attention.mask, scale)
    np.testing.assert_allclose(y[real], expected[real], rtol=1e-4, atol=1e-4)
    return params


@pytest.mark.parametrize("mask", [masks.causal, masks.full, masks.Window(3)], ids=["causal", "full", "window"])
def test_attention_equals_the_slow_loop(mask):
    info = token_info(SEGMENTS)
    params = check(RelativeAttention(H, K, mask=mask), array(2, L, D), Context(info, info))
    assert "type_bias" not in params


def test_types_scale_and_bias_are_added():
    info, bias = token_info(SEGMENTS).replace(types_BL=TYPES), jnp.asarray(array(1, H, L, L, seed=3))
    attention = RelativeAttention(H, K, mask=masks.full, segment_bias=True, scale=0.7)
    params = check(attention, array(2, L, D), Context(info, info, bias_AHLM=bias), 0.7)
    assert {"type_bias", "type_table"} <= set(params)


def test_a_second_stream_has_the_positions_of_the_first():
    content = token_info(SEGMENTS).replace(types_BL=TYPES, order_BL=2 * ORDER)
    query_stream = content.replace(order_BL=2 * ORDER - 1)
    both = jax.tree.map(lambda a, b: jnp.concatenate([a, b], 1), content, query_stream)
    attention = RelativeAttention(H, K, mask=masks.permuted, segment_bias=True)
    check(attention, array(2, 2 * L, D), Context(both, content))


def test_absent_types_have_the_effect_of_one_type():
    info, x = token_info(SEGMENTS), array(2, L, D)
    attention = RelativeAttention(H, K, mask=masks.full, segment_bias=True)
    params = {"params": random_params(attention, x, Context(info, info))}
    same = info.replace(types_BL=jnp.zeros((2, L), jnp.int32))
    one, two = (attention.apply(params, x, Context(each, each)) for each in (info, same))
    np.testing.assert_allclose(one, two, atol=1e-5)


@pytest.mark.parametrize("streams", [1, 2])
def test_shift_scores_selects_the_distance_of_key_and_query(streams):
    scores_BHLN = array(2, 3, streams * 5, 9)
    y = jax.jit(shift_scores, static_argnums=1)(scores_BHLN, 5)
    for i, j in np.ndindex(streams * 5, 5):
        np.testing.assert_array_equal(y[:, :, i, j], scores_BHLN[:, :, i, j - i % 5 + 4])

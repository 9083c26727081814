"""Position encodings against their closed forms, and their invariances."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_like.models import positions
from tests.models.contexts import array, context

PACKED = [[1, 1, 1, 2, 2, 2, 2, 0], [1, 1, 1, 1, 1, 2, 2, 2]]


def test_learned_adds_the_vector_of_each_position():
    ctx, x, table = context(PACKED), array(2, 8, 4), array(9, 4, seed=1)
    y, _ = positions.Learned(9).apply({"params": {"table": table}}, x, ctx)
    np.testing.assert_allclose(y, x + table[np.asarray(ctx.queries.positions_BL)])


def test_learned_may_skip_the_first_vectors():
    ctx, x, table = context(PACKED), array(2, 8, 4), array(9 + 2, 4, seed=1)
    y, _ = positions.Learned(9, offset=2).apply({"params": {"table": table}}, x, ctx)
    np.testing.assert_allclose(y, x + table[np.asarray(ctx.queries.positions_BL) + 2])
    fresh = jax.eval_shape(positions.Learned(9, offset=2).init, jax.random.key(0), x, ctx)["params"]["table"]
    assert fresh.value.shape == table.shape
    with pytest.raises(ValueError, match=r"length of 8 .*max_length=7"):  # the offset adds no positions
        jax.eval_shape(positions.Learned(7, offset=2).init, jax.random.key(0), x, ctx)


def test_a_learned_table_that_is_too_short_is_refused_before_compiling():
    with pytest.raises(ValueError, match=r"length of 8 .*max_length=7; shorten the sequences or raise max_length"):
        jax.eval_shape(positions.Learned(7).init, jax.random.key(0), array(2, 8, 4), context(PACKED))


def test_sinusoidal_equals_its_closed_form():
    ctx, x = context(PACKED), array(2, 8, 6)
    y, _ = positions.Sinusoidal().apply({}, x, ctx)
    for b, i in np.ndindex(2, 8):
        p = int(ctx.queries.positions_BL[b, i])
        rotary_angles = [p / 10000 ** (2 * k / 6) for k in range(3)]
        added = [math.sin(w) for w in rotary_angles] + [math.cos(w) for w in rotary_angles]
        np.testing.assert_allclose(y[b, i] - x[b, i], added, atol=1e-6)


def rotary_angles(positions_BL, width=8):
    """Returns cos and sin of the rotary angles."""
    angles_BLK = positions_BL[..., None] * positions.rotary_frequencies(width, 1e4)
    return np.cos(angles_BLK), np.sin(angles_BLK)


def test_rotation_equals_complex_multiplication():
    x_BLHK, positions_BL = array(2, 5, 3, 8), np.tile(np.arange(5), (2, 1))
    y = positions.rotate(x_BLHK, rotary_angles(positions_BL))
    z = x_BLHK[..., :4] + 1j * x_BLHK[..., 4:]
    angles = positions_BL[:, :, None, None] * 10000.0 ** (-np.arange(4) / 4)
    rotated = z * np.exp(1j * angles)
    np.testing.assert_allclose(y, np.concatenate([rotated.real, rotated.imag], -1), atol=1e-5)


@pytest.mark.parametrize("width", [2, 4, 8])
def test_partial_rotation_leaves_the_rest_of_a_head_unchanged(width):
    x_BLHK, positions_BL = array(2, 5, 3, 8), np.tile(np.arange(5), (2, 1))
    y = positions.rotate(x_BLHK, rotary_angles(positions_BL, width))
    np.testing.assert_array_equal(y[..., width:], x_BLHK[..., width:])
    rotated = positions.rotate(x_BLHK[..., :width], rotary_angles(positions_BL, width))
    np.testing.assert_array_equal(y[..., :width], rotated)
    _, ctx = positions.Rope(width).apply({}, array(2, 8, 4), context(PACKED))
    for part, wave in zip(ctx.rotary, rotary_angles(np.asarray(ctx.queries.positions_BL), width), strict=True):
        np.testing.assert_allclose(part, wave, atol=1e-6)


def test_rotary_scores_depend_only_on_the_distance():
    q, k = array(1, 6, 2, 8), array(1, 6, 2, 8, seed=1)

    def scores(shift):
        angles = rotary_angles(np.arange(6)[None] + shift)
        return jnp.einsum("BLHK,BMHK->BHLM", positions.rotate(q, angles), positions.rotate(k, angles))

    np.testing.assert_allclose(scores(0), scores(37), atol=1e-4)


def test_rotary_refuses_an_odd_width():
    with pytest.raises(ValueError, match=r"width=7 is odd"):
        positions.Rope(7).apply({}, array(2, 8, 4), context(PACKED))


def slow_bucket(distance, bidirectional, buckets, furthest):
    """Returns T5's bucket of one distance, from the paper's description."""
    first = 0
    if bidirectional:
        buckets //= 2
        first, back = (buckets, distance) if distance > 0 else (0, -distance)
    else:
        back = max(-distance, 0)
    exact = buckets // 2
    if back < exact:
        return first + back
    log_bucket = exact + int(math.log(back / exact) / math.log(furthest / exact) * (buckets - exact) + 1e-9)
    return first + min(log_bucket, buckets - 1)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("buckets", "furthest"), [(32, 128), (16, 64), (8, 20)])
def test_bucket_equals_the_slow_version(bidirectional, buckets, furthest):
    distances = np.arange(-300, 301)
    slow = [slow_bucket(int(d), bidirectional, buckets, furthest) for d in distances]
    for function in (positions.relative_bucket, jax.jit(positions.relative_bucket, static_argnums=(1, 2, 3))):
        assert function(jnp.asarray(distances), bidirectional, buckets, furthest).tolist() == slow


def test_known_t5_buckets():
    known = {0: 0, -1: 1, 1: 17, -7: 7, -8: 8, -11: 8, -12: 9, -16: 10, 16: 26, -64: 14, -128: 15, 1000: 31}
    assert positions.relative_bucket(jnp.asarray(list(known)), True, 32, 128).tolist() == list(known.values())
    known = {5: 0, 0: 0, -1: 1, -15: 15, -16: 16, -32: 21, -64: 26, -128: 31, -1000: 31}
    assert positions.relative_bucket(jnp.asarray(list(known)), False, 32, 128).tolist() == list(known.values())


def test_relative_bias_reads_its_table():
    table_HN = array(3, 32)
    _, ctx = positions.RelativeBias(3, True).apply({"params": {"table": table_HN}}, array(2, 8, 4), context(PACKED))
    for h, i, j in np.ndindex(3, 8, 8):
        assert ctx.bias_AHLM[0, h, i, j] == table_HN[h, slow_bucket(j - i, True, 32, 128)]


def test_alibi_slopes_equal_the_published_values():
    np.testing.assert_allclose(positions.alibi_slopes(8), [2.0**-h for h in range(1, 9)])
    published = [2.0**-h for h in range(1, 9)] + [2.0**-h for h in (0.5, 1.5, 2.5, 3.5)]
    np.testing.assert_allclose(positions.alibi_slopes(12), published, rtol=1e-6)


def test_alibi_is_minus_the_slope_times_the_distance():
    slopes, back = positions.alibi_slopes(12), np.abs(np.arange(8)[:, None] - np.arange(8))
    for scale in (1.0, 0.25):
        _, ctx = positions.Alibi(12, scale).apply({}, array(2, 8, 4), context(PACKED))
        np.testing.assert_allclose(ctx.bias_AHLM[0], -scale * slopes[:, None, None] * back, rtol=1e-6)


def test_alibi_may_round_slope_times_position():
    """Equal up to a constant per query, which the softmax ignores."""
    packed, half = context([[1] * 300 + [2] * 20]), jnp.bfloat16
    _, ctx = positions.Alibi(12, 0.25, half).apply({}, array(1, 320, 4), packed)
    slopes, places = positions.alibi_slopes(12).astype(half), np.asarray(packed.keys.positions_BL[0]).astype(half)
    rounded = np.array([[float(slope * place) for place in places] for slope in slopes])
    assert np.any(rounded != positions.alibi_slopes(12)[:, None] * np.asarray(packed.keys.positions_BL[0]))
    bias_HLM = np.broadcast_to(ctx.bias_AHLM[0], (12, 320, 320))
    for segment in (slice(0, 300), slice(300, 320)):
        for i in (0, 7, 19):
            expected = 0.25 * (rounded[:, segment] - rounded[:, segment][:, [i]])
            bias_HM = bias_HLM[:, segment.start + i, segment]
            np.testing.assert_allclose(bias_HM - bias_HM[:, [i]], expected, atol=1e-5)

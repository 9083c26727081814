"""Ops only rearrange numbers: join inverts split for all shapes."""

import jax
import numpy as np
import pytest

from t5x_like.hf import ops

H, G, K, D, F = 6, 2, 4, 5, 7

CASES = {
    "same": (ops.identity, (3, 5), [(3, 5)]),
    "flipped": (ops.transpose, (3, 5), [(5, 3)]),
    "vector": (ops.flatten, (H * K,), [(H, K)]),
    "leading": (ops.leading_ones(2), (1, 1, D), [(D,)]),
    "linear": (ops.linear(), (H * K, D), [(D, H, K)]),
    "linear from heads": (ops.linear(2), (D, H * K), [(H, K, D)]),
    "conv1d": (ops.conv1d(2), (H * K, D), [(H, K, D)]),
    "transposed": (ops.permute(1, 2, 0), (D, H, K), [(H, K, D)]),
    "rotary pairs": (ops.linear().then(ops.deinterleave(2)), (H * K, D), [(D, H, K)]),
    "side by side": (ops.concatenate(True), ((H + 2 * G) * K, D), [(D, H, K), (D, G, K), (D, G, K)]),
    "side by side, biases": (ops.concatenate(False), ((H + 2 * G) * K,), [(H, K), (G, K), (G, K)]),
    "side by side, Conv1D": (ops.concatenate(True, conv=True), (D, 3 * H * K), [(D, H, K)] * 3),
    "side by side, gate and up": (ops.concatenate(True), (2 * F, D), [(D, F)] * 2),
    "by group": (ops.qkv_by_group(True, G), ((H + 2 * G) * K, D), [(D, H, K), (D, G, K), (D, G, K)]),
    "by group, biases": (ops.qkv_by_group(False, G), ((H + 2 * G) * K,), [(H, K), (G, K), (G, K)]),
    "by core": (ops.qkv_by_core(2), (3 * H * K, D), [(D, H, K)] * 3),
}


@pytest.mark.parametrize("case", CASES)
def test_join_inverts_split(case):
    op, shape, shapes = CASES[case]
    tensor = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    arrays = op.split(tensor, shapes)
    assert [x.shape for x in arrays] == shapes
    assert sorted(np.concatenate([np.ravel(x) for x in arrays])) == sorted(tensor.ravel())
    np.testing.assert_array_equal(op.join(arrays), tensor)
    abstract = jax.eval_shape(op.join, [jax.ShapeDtypeStruct(s, np.float32) for s in shapes])
    assert abstract.shape == shape


@pytest.mark.parametrize("case", CASES)
def test_a_compiled_split_is_equal(case):
    op, shape, shapes = CASES[case]
    tensor = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    for ours, compiled in zip(op.split(tensor, shapes), jax.jit(lambda x: op.split(x, shapes))(tensor), strict=True):
        np.testing.assert_array_equal(ours, compiled)


def test_rotary_pairs_become_halves():
    x = np.arange(6)[None, None]  # pairs (0, 1), (2, 3), and 4, 5 that are not rotated
    np.testing.assert_array_equal(ops.deinterleave(4).split(x, [x.shape])[0][0, 0], [0, 2, 1, 3, 4, 5])

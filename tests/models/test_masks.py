"""Masks against their definitions, pair by pair."""

import jax.numpy as jnp
import numpy as np
import pytest

from t5x_like.models import masks
from tests.models.contexts import token_info

SEGMENTS = [[1, 1, 1, 2, 2, 0], [1, 1, 2, 3, 3, 3]]


def test_causal_sees_the_same_and_earlier_positions():
    info = token_info(SEGMENTS)
    visible = np.asarray(masks.causal(info, info) & masks.same_segment(info, info))
    for b, i, j in np.ndindex(2, 6, 6):
        segment = SEGMENTS[b][i]
        assert visible[b, i, j] == (segment > 0 and segment == SEGMENTS[b][j] and j <= i)


def test_causal_sees_the_whole_prefix():
    info = token_info([[1] * 5], prefix_BL=[[1, 1, 1, 0, 0]])
    visible = np.asarray(masks.causal(info, info))[0]
    for i, j in np.ndindex(5, 5):
        assert visible[i, j] == (j <= i or j < 3)


def test_full_sees_all_of_the_segment_and_no_padding():
    info = token_info(SEGMENTS)
    visible = np.asarray(masks.full(info, info) & masks.same_segment(info, info))
    for b, i, j in np.ndindex(2, 6, 6):
        assert visible[b, i, j] == (SEGMENTS[b][i] > 0 and SEGMENTS[b][i] == SEGMENTS[b][j])


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_window_sees_the_last_keys_of_the_same_segment(size):
    info = token_info(SEGMENTS)
    visible = np.asarray(masks.Window(size)(info, info) & masks.same_segment(info, info))
    for b, i, j in np.ndindex(2, 6, 6):
        segment = SEGMENTS[b][i]
        assert visible[b, i, j] == (segment > 0 and segment == SEGMENTS[b][j] and i - size < j <= i)


def test_a_window_as_long_as_the_row_is_causal():
    for info in (token_info(SEGMENTS), token_info(SEGMENTS, prefix_BL=[[1, 1, 0, 1, 0, 0], [0, 0, 0, 1, 1, 0]])):
        np.testing.assert_array_equal(masks.Window(6)(info, info), masks.causal(info, info))


def test_permuted_sees_only_tokens_not_predicted_later():
    order = np.random.default_rng(0).integers(0, 4, (2, 6))
    keys = token_info(SEGMENTS).replace(order_BL=jnp.asarray(order))
    queries = keys.replace(order_BL=keys.order_BL - 1)
    visible, before = np.asarray(masks.permuted(keys, keys)), np.asarray(masks.permuted(queries, keys))
    for b, i, j in np.ndindex(2, 6, 6):
        assert visible[b, i, j] == (order[b, j] <= order[b, i]) and before[b, i, j] == (order[b, j] < order[b, i])
    info = token_info(SEGMENTS)
    np.testing.assert_array_equal(masks.permuted(info, info), masks.full(info, info))


def test_same_segment_between_two_sides():
    visible = np.asarray(masks.same_segment(token_info([[1, 2, 0]]), token_info([[1, 1, 2, 0]])))[0]
    assert visible.tolist() == [[True, True, False, False], [False, False, True, False], [False] * 4]

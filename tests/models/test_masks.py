"""Masks against what they mean, slot by slot."""

import numpy as np

from models import masks
from tests.models.contexts import slots

SEGMENTS = [[1, 1, 1, 2, 2, 0], [1, 1, 2, 3, 3, 3]]


def test_causal_sees_its_own_and_earlier_positions():
    own = slots(SEGMENTS)
    seen = np.asarray(masks.causal(own, own) & masks.same_segment(own, own))
    for b, i, j in np.ndindex(2, 6, 6):
        segment = SEGMENTS[b][i]
        assert seen[b, i, j] == (segment > 0 and segment == SEGMENTS[b][j] and j <= i)


def test_causal_sees_the_whole_prefix():
    own = slots([[1] * 5], prefix_BL=[[1, 1, 1, 0, 0]])
    seen = np.asarray(masks.causal(own, own))[0]
    for i, j in np.ndindex(5, 5):
        assert seen[i, j] == (j <= i or j < 3)


def test_full_sees_all_of_the_segment_and_no_padding():
    own = slots(SEGMENTS)
    seen = np.asarray(masks.full(own, own) & masks.same_segment(own, own))
    for b, i, j in np.ndindex(2, 6, 6):
        assert seen[b, i, j] == (SEGMENTS[b][i] > 0 and SEGMENTS[b][i] == SEGMENTS[b][j])


def test_same_segment_between_two_sides():
    seen = np.asarray(masks.same_segment(slots([[1, 2, 0]]), slots([[1, 1, 2, 0]])))[0]
    assert seen.tolist() == [[True, True, False, False], [False, False, True, False], [False] * 4]

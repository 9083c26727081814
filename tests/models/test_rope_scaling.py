"""Scaled rotary frequencies against slow versions written from the papers, one frequency at a time."""

import math

import jax
import numpy as np
import pytest

from t5x_like.models import positions, rope_scaling
from tests.models.contexts import array, context

WIDTH, BASE = 16, 1e4
LENGTHS = 7, 12, 3, 24
UNPACKED = [[1] * length + [0] * (24 - length) for length in LENGTHS]
PACKED = [1] * 7 + [2] * 12 + [3] * 3 + [0] * 2


def plain(i, base=BASE):
    return base ** (-2 * i / WIDTH)


def linear(i, length):
    """Position p becomes p / 4 (Chen et al. 2023)."""
    return plain(i) / 4, 1.0


def ntk(i, length):
    """The base becomes base * 4^(W / (W - 2)) (bloc97 2023)."""
    return plain(i, BASE * 4 ** (WIDTH / (WIDTH - 2))), 1.0


def dynamic_ntk(i, length):
    """`ntk` with a factor that grows with the length from 1 at the trained length (emozilla 2023)."""
    factor = 3 * length / 8 - 2 if length > 8 else 1
    return plain(i, BASE * factor ** (WIDTH / (WIDTH - 2))), 1.0


def llama3(i, length):
    """By wavelength: short ones unchanged, long ones scaled, linear in original_length / wavelength between them."""
    wavelength = 2 * math.pi / plain(i)
    if wavelength < 128 / 4:
        return plain(i), 1.0
    if wavelength > 128 / 1:
        return plain(i) / 8, 1.0
    smooth = (128 / wavelength - 1) / (4 - 1)
    return (1 - smooth) * plain(i) / 8 + smooth * plain(i), 1.0


def yarn(i, length, truncate=False):
    """By turns r in the trained length: gamma is 0 below `slow` turns, 1 above `fast`, and linear in i between them."""
    ends = [(WIDTH / 2) * math.log(64 / (2 * math.pi * turns)) / math.log(BASE) for turns in (4.0, 0.5)]
    first, last = (math.floor(ends[0]), math.ceil(ends[1])) if truncate else ends
    gamma = 1 - min(max((i - first) / (last - first), 0), 1)
    return (1 - gamma) * plain(i) / 16 + gamma * plain(i), 0.1 * math.log(16) + 1


def truncated_yarn(i, length):
    """`yarn` with the ramp's ends at integer i, as in its authors' code."""
    return yarn(i, length, truncate=True)


SCALINGS = {
    "linear": (rope_scaling.Linear(4.0), linear),
    "ntk": (rope_scaling.Ntk(4.0), ntk),
    "dynamic_ntk": (rope_scaling.DynamicNtk(3.0, original_length=8), dynamic_ntk),
    "llama3": (rope_scaling.Llama3(original_length=128), llama3),
    "yarn": (rope_scaling.Yarn(16.0, 64, fast=4.0, slow=0.5, truncate=False), yarn),
    "truncated_yarn": (rope_scaling.Yarn(16.0, 64, fast=4.0, slow=0.5), truncated_yarn),
}


def rotary(scaling, segments):
    """Returns cos and sin of every token and pair [2, B, L, K]."""

    def waves(ctx):
        _, ctx = positions.Rope(WIDTH, BASE, scaling).apply({}, array(1, 1, 4), ctx)
        return ctx.rotary

    return np.stack(jax.jit(waves)(context(segments)))


@pytest.mark.parametrize("name", SCALINGS)
def test_scaling_equals_its_slow_version_packed_or_unpacked(name):
    scaling, slow = SCALINGS[name]
    ours = rotary(scaling, [PACKED, *UNPACKED])
    for row, length in enumerate(LENGTHS):
        for i in range(WIDTH // 2):
            frequency, magnitude = slow(i, length)
            angles = np.arange(length) * frequency
            expected = magnitude * np.cos(angles), magnitude * np.sin(angles)
            np.testing.assert_allclose(ours[:, row + 1, :length, i], expected, atol=2e-5)
    for row, start in enumerate((0, 7, 19)):
        length = LENGTHS[row]
        np.testing.assert_allclose(ours[:, 0, start : start + length], ours[:, row + 1, :length], atol=1e-5)


def test_a_factor_of_one_or_a_short_segment_changes_nothing():
    plain = rotary(None, [PACKED])
    identities = rope_scaling.Linear(1.0), rope_scaling.Ntk(1.0), rope_scaling.Llama3(1.0), rope_scaling.Yarn(1.0, 64)
    for scaling in (*identities, rope_scaling.DynamicNtk(5.0, original_length=12)):
        np.testing.assert_allclose(rotary(scaling, [PACKED]), plain, atol=1e-5)


def test_ntk_keeps_the_highest_frequency_and_divides_the_lowest():
    frequencies = positions.rotary_frequencies(WIDTH, BASE)
    scaled, _ = rope_scaling.Ntk(4.0)(frequencies, BASE, None)
    np.testing.assert_allclose(scaled[[0, -1]], frequencies[[0, -1]] / [1, 4], rtol=1e-6)


def test_yarn_sharpens_scores_by_the_magnitude_squared():
    q, k = array(1, 6, 2, WIDTH), array(1, 6, 2, WIDTH, seed=1)

    def scores(magnitude):
        angles = rotary(rope_scaling.Yarn(16.0, 64, magnitude=magnitude), [[1] * 6])
        return np.einsum("BLHK,BMHK->BHLM", positions.rotate(q, angles), positions.rotate(k, angles))

    np.testing.assert_allclose(scores(1.5), 2.25 * scores(1.0), rtol=1e-4, atol=1e-4)

"""Schedules against their formulas."""

import numpy as np
import pytest

from t5x_like.optimizers import schedules


def curve(schedule, steps):
    return np.array([float(schedule(np.int32(step))) for step in range(steps)])


def test_all_warm_up_linearly_to_the_peak():
    peak, steps, warmup = 0.5, 20, 4
    made = (
        schedules.constant(peak, warmup),
        schedules.cosine(peak, steps, warmup),
        schedules.linear(peak, steps, warmup),
        schedules.wsd(peak, steps, warmup),
    )
    for schedule in made:
        np.testing.assert_allclose(curve(schedule, 5), [0.125, 0.25, 0.375, 0.5, 0.5], rtol=1e-6)


def test_each_follows_its_formula_after_the_warm_up():
    steps, since = 20, np.arange(16) / 16
    cosine = curve(schedules.cosine(2.0, steps, 4, final=0.1), steps)[4:]
    np.testing.assert_allclose(cosine, 2.0 * (0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * since))), rtol=1e-5)
    linear = curve(schedules.linear(2.0, steps, 4, final=0.5), steps)[4:]
    np.testing.assert_allclose(linear, 2.0 - since, rtol=1e-6)
    np.testing.assert_allclose(curve(schedules.constant(2.0), 3), 2.0)
    step = np.arange(50) + 1
    np.testing.assert_allclose(curve(schedules.rsqrt(3.0, 10), 50), 3.0 / np.sqrt(np.maximum(step, 10)), rtol=1e-6)


@pytest.mark.parametrize("rate", [-1e-3, float("inf"), float("nan")])
def test_a_rate_that_is_negative_or_not_finite_is_refused(rate):
    for make in (schedules.constant, schedules.rsqrt, lambda r: schedules.cosine(r, 5), lambda r: schedules.wsd(r, 5)):
        with pytest.raises(ValueError, match="learning_rate="):
            make(rate)


@pytest.mark.parametrize("decay", [schedules.linear_decay, schedules.one_minus_sqrt])
def test_wsd_is_constant_and_then_decays(decay):
    made = curve(schedules.wsd(1.0, 30, 5, 10, decay), 31)
    np.testing.assert_allclose(made[5:21], 1.0)
    np.testing.assert_allclose(made[20:31], [decay(i / 10) for i in range(11)], atol=1e-6)
    assert made[30] == 0.0


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: schedules.cosine(1.0, 10, 20), "warmup_steps=20 and steps=10"),
        (lambda: schedules.linear(1.0, 0), "steps=0"),
        (lambda: schedules.wsd(1.0, 10, 4, 8), "decay_steps=8 and warmup_steps=4 do not fit into steps=10"),
        (lambda: schedules.rsqrt(1.0, 0), "warmup_steps=0"),
    ],
)
def test_spans_that_do_not_fit_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()

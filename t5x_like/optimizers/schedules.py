"""Learning-rate schedules: functions of the step, counted from 0."""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax

Schedule: TypeAlias = Callable[[Any], Any]  # step, counted from 0 -> learning rate


def check_span(steps: int, warmup_steps: int) -> None:
    """Checks that the warm-up fits into the run.

    Raises:
      ValueError: unless 0 <= warmup_steps <= steps and steps >= 1.
    """
    if steps < 1 or warmup_steps < 0 or warmup_steps > steps:
        raise ValueError(
            f"warmup_steps={warmup_steps} and steps={steps}: need 0 <= warmup_steps <= steps and steps >= 1; shorten the "
            "warm-up (WARMUP_STEPS) or train longer (STEPS)"
        )


def check_rate(learning_rate: float) -> None:
    """Raises ValueError for a learning rate that is negative, infinite or NaN."""
    if not 0 <= learning_rate < math.inf:
        raise ValueError(f"learning_rate={learning_rate} is not finite, and 0 or more")


def warm_up(after: Schedule, peak: float, warmup_steps: int) -> Schedule:
    """A linear ramp from peak / warmup_steps to the peak, then `after(step - warmup_steps)`.

    Raises:
      ValueError: the peak is negative, infinite or NaN.
    """
    check_rate(peak)

    def schedule(step: Any) -> jax.Array:
        ramp = peak * (step + 1) / max(warmup_steps, 1)
        return jnp.where(step < warmup_steps, ramp, after(step - warmup_steps))

    return schedule


def constant(learning_rate: float, warmup_steps: int = 0) -> Schedule:
    """A warm-up, then a constant rate."""
    return warm_up(lambda _: learning_rate, learning_rate, warmup_steps)


def cosine(learning_rate: float, steps: int, warmup_steps: int = 0, final: float = 0.1) -> Schedule:
    """A warm-up, then half a cosine from the peak to `final` times the peak at `steps` (Loshchilov & Hutter 2017)."""
    check_span(steps, warmup_steps)
    return warm_up(
        optax.cosine_decay_schedule(learning_rate, max(steps - warmup_steps, 1), final), learning_rate, warmup_steps
    )


def linear(learning_rate: float, steps: int, warmup_steps: int = 0, final: float = 0.0) -> Schedule:
    """A warm-up, then a line from the peak to `final` times the peak at `steps`."""
    check_span(steps, warmup_steps)
    down = optax.linear_schedule(learning_rate, final * learning_rate, max(steps - warmup_steps, 1))
    return warm_up(down, learning_rate, warmup_steps)


def rsqrt(learning_rate: float = 1.0, warmup_steps: int = 10_000) -> Schedule:
    """learning_rate / sqrt(max(step + 1, warmup_steps)): constant during the warm-up (T5, Raffel et al. 2020)."""
    check_rate(learning_rate)
    if warmup_steps < 1:
        raise ValueError(f"warmup_steps={warmup_steps}: the inverse square root needs at least 1")
    return lambda step: learning_rate / jnp.sqrt(jnp.maximum(step + 1, warmup_steps).astype(jnp.float32))


def linear_decay(fraction: jax.Array) -> jax.Array:
    """1 - fraction."""
    return 1.0 - fraction


def one_minus_sqrt(fraction: jax.Array) -> jax.Array:
    """1 - sqrt(fraction) (Haegele et al. 2024)."""
    return 1.0 - jnp.sqrt(fraction)


def wsd(
    learning_rate: float,
    steps: int,
    warmup_steps: int = 0,
    decay_steps: int | None = None,
    decay: Callable[[jax.Array], jax.Array] = linear_decay,
    final: float = 0.0,
) -> Schedule:
    """Warm-up, stable, decay: the peak until `decay_steps` before the end, then `decay` down to `final` times the peak.

    `decay_steps` None is a fifth of the run. `decay` maps the fraction of the decay that is done to a factor, 1 to 0.
    """
    decay_steps = steps // 5 if decay_steps is None else decay_steps
    check_span(steps, warmup_steps)
    if decay_steps < 0 or warmup_steps + decay_steps > steps:
        raise ValueError(
            f"decay_steps={decay_steps} and warmup_steps={warmup_steps} do not fit into steps={steps}; shorten one"
        )
    begin = steps - warmup_steps - decay_steps

    def after(step: Any) -> jax.Array:
        fraction = jnp.clip((step - begin) / max(decay_steps, 1), 0.0, 1.0)
        return learning_rate * (final + (1.0 - final) * decay(fraction))

    return warm_up(after, learning_rate, warmup_steps)

"""Learning-rate schedules: functions of the step (0 is the first), each returned by a function of its constants."""

from collections.abc import Callable

import jax.numpy as jnp
import optax

Schedule = optax.Schedule


def check_span(steps: int, warmup_steps: int) -> None:
    """Refuses a warm-up that does not fit the run."""
    if steps < 1 or warmup_steps < 0 or warmup_steps > steps:
        raise ValueError(
            f"warmup_steps={warmup_steps} and steps={steps}: need 0 <= warmup_steps <= steps and steps >= 1"
        )


def warmed_up(after: Callable, peak: float, warmup_steps: int) -> Schedule:
    """Linear from peak / warmup_steps to the peak over the warm-up, then `after(steps since)`."""

    def schedule(step):
        ramp = peak * (step + 1) / max(warmup_steps, 1)
        return jnp.where(step < warmup_steps, ramp, after(step - warmup_steps))

    return schedule


def constant(learning_rate: float, warmup_steps: int = 0) -> Schedule:
    """The same rate after the warm-up."""
    return warmed_up(lambda _: learning_rate, learning_rate, warmup_steps)


def cosine(learning_rate: float, steps: int, warmup_steps: int = 0, final: float = 0.1) -> Schedule:
    """Half a cosine from the peak to `final` times the peak at `steps` (Loshchilov & Hutter 2017)."""
    check_span(steps, warmup_steps)
    return warmed_up(
        optax.cosine_decay_schedule(learning_rate, max(steps - warmup_steps, 1), final), learning_rate, warmup_steps
    )


def linear(learning_rate: float, steps: int, warmup_steps: int = 0, final: float = 0.0) -> Schedule:
    """Straight from the peak to `final` times the peak at `steps`."""
    check_span(steps, warmup_steps)
    down = optax.linear_schedule(learning_rate, final * learning_rate, max(steps - warmup_steps, 1))
    return warmed_up(down, learning_rate, warmup_steps)


def rsqrt(learning_rate: float = 1.0, warmup_steps: int = 10_000) -> Schedule:
    """learning_rate / sqrt(max(step + 1, warmup_steps)): T5's, flat through the warm-up (Raffel et al. 2020)."""
    if warmup_steps < 1:
        raise ValueError(f"warmup_steps={warmup_steps}: the inverse square root needs at least 1")
    return lambda step: learning_rate / jnp.sqrt(jnp.maximum(step + 1, warmup_steps).astype(jnp.float32))


def straight(fraction):
    """1 to 0 in a line."""
    return 1.0 - fraction


def one_minus_sqrt(fraction):
    """1 - sqrt(fraction) (Haegele et al. 2024)."""
    return 1.0 - jnp.sqrt(fraction)


def wsd(
    learning_rate: float,
    steps: int,
    warmup_steps: int = 0,
    decay_steps: int | None = None,
    decay: Callable = straight,
    final: float = 0.0,
) -> Schedule:
    """Warm-up, stable, decay: the peak until `decay_steps` (a fifth of the run) before the end, then down by `decay`."""
    decay_steps = steps // 5 if decay_steps is None else decay_steps
    check_span(steps, warmup_steps)
    if decay_steps < 0 or warmup_steps + decay_steps > steps:
        raise ValueError(
            f"decay_steps={decay_steps} and warmup_steps={warmup_steps} do not fit into steps={steps}; shorten one"
        )
    begin = steps - warmup_steps - decay_steps

    def after(step):
        fraction = jnp.clip((step - begin) / max(decay_steps, 1), 0.0, 1.0)
        return learning_rate * (final + (1.0 - final) * decay(fraction))

    return warmed_up(after, learning_rate, warmup_steps)

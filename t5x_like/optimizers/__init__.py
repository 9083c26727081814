"""Optimizers and learning-rate schedules: functions that return an optax.GradientTransformation or a schedule."""

from t5x_like.optimizers.core import (
    adafactor,
    adamw,
    learning_rate_of,
    learning_rates,
    lion,
    sgd,
)

__all__ = ["adafactor", "adamw", "learning_rate_of", "learning_rates", "lion", "sgd"]

"""Checks of the numbers that optimizers take, before anything is computed."""

import math


def check_decays(**values: float | None) -> None:
    """Checks decay rates of moments, by the names of their arguments; None is absent.

    Raises:
      ValueError: one that is not in [0, 1).
    """
    for name, value in values.items():
        if value is not None and not 0 <= value < 1:
            raise ValueError(f"{name}={value} is not a decay rate: 0 or more, and below 1")


def check_not_negative(**values: float | None) -> None:
    """Checks numbers by the names of their arguments; None is absent.

    Raises:
      ValueError: one that is negative, infinite or NaN.
    """
    for name, value in values.items():
        if value is not None and not 0 <= value < math.inf:
            raise ValueError(f"{name}={value} is not finite, and 0 or more")


def check_positive(**values: float | None) -> None:
    """Checks numbers by the names of their arguments; None is absent.

    Raises:
      ValueError: one that is 0, negative or NaN.
    """
    for name, value in values.items():
        if value is not None and not value > 0:
            raise ValueError(f"{name}={value} is not positive")

"""Checks of targets and predictions, and imports of optional packages."""

import importlib
from collections.abc import Sequence
from types import ModuleType

import numpy as np


def check_pairs(targets: Sequence, outputs: Sequence, name: str = "predictions") -> tuple[list, list]:
    """Returns both as lists.

    Raises:
      ValueError: they are empty or differ in length.
    """
    if len(targets) != len(outputs):
        raise ValueError(f"{len(targets)} targets and {len(outputs)} {name}: give one of {name} for each target")
    if not len(targets):
        raise ValueError(f"targets and {name} are empty and have no metric; give at least one example")
    return list(targets), list(outputs)


def to_float64(values: Sequence | np.ndarray, name: str) -> np.ndarray:
    """One number per example as float64 [N].

    Raises:
      ValueError: not one number per example, or NaN.
    """
    try:
        values_N = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be one number per example: {error}") from error
    if values_N.ndim != 1:
        raise ValueError(f"{name} have shape {values_N.shape}; give one number per example")
    if np.isnan(values_N).any():
        raise ValueError(f"{name}[{int(np.isnan(values_N).argmax())}] is NaN; give numbers, -inf for probability 0")
    return values_N


def list_answers(target: str | Sequence[str]) -> list[str]:
    """The accepted answers of a target; a text is its only answer."""
    return [target] if isinstance(target, str) else list(target)


def percent(values: Sequence) -> float:
    """100 times the mean."""
    return 100 * float(np.mean(values))


def import_library(module: str, package: str) -> ModuleType:
    """Imports a module of an optional package.

    Raises:
      ImportError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != module.partition(".")[0]:
            raise
        raise ImportError(
            f"this metric needs the package {package}; install it with: pip install 't5x_like[metrics]'"
        ) from error

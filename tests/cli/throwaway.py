"""Functions and classes that gin/test_runtime.py configures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from flax import linen as nn


@dataclass(frozen=True)
class Cache:
    split: str


@dataclass(frozen=True)
class Rows:
    cache: Cache
    length: int = 8


def train(steps: int, rows: Any = None, shape: Any = (1,), function: Callable | None = None, config: str = "") -> dict:
    return {"steps": steps, "rows": rows, "shape": shape, "function": function, "config": config}


def typed(
    steps: int = 0,
    rate: float = 0.0,
    names: Sequence[str] = (),
    label: str | None = None,
    sizes: tuple[int, float] = (0, 0.0),
    module: nn.Module | None = None,
) -> dict:
    return {"names": names}


opened: list[str] = []  # the order in which the functions below were called


class TokenCache:
    pass


def open_data(cache: Any) -> str:
    opened.append("data")
    return "data"


def open_other() -> str:
    opened.append("other")
    return "other"


def late(data: str, other: str) -> str:
    return data + other


def double(x):
    return 2 * x


class Inner(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.width)(x)


class Outer(nn.Module):
    """A module with a submodule built by gin, used twice, and a class that it instantiates."""

    inner: nn.Module
    kind: type = Inner

    @nn.compact
    def __call__(self, x):
        first = self.inner.copy(name="first")(x)
        second = self.inner.copy(name="second")(first)
        return self.kind(width=3, name="third")(second)

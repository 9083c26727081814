"""Designs, which define the runs of a sweep: IsoFLOP curves, a ladder of sizes, a grid, or random draws.

A design yields points: macros that differ from the base configuration, and the training compute, from which the recipe of
the sweep (recipes.py) computes steps, batch size and learning rate. A point without compute takes them from the base.
"""

import dataclasses
import itertools
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from t5x_like.scaling.planning import shapes
from t5x_like.scaling.planning.shapes import Shape


@dataclasses.dataclass(frozen=True)
class Point:
    """Macros of a run, and its compute: as FLOPs, as tokens per parameter, or neither."""

    macros: Mapping[str, Any]
    flops: float | None = None
    tokens_per_param: float | None = None


@dataclasses.dataclass(frozen=True)
class IsoFlop:
    """Several sizes at each budget (Hoffmann et al., approach 2).

    `budgets` is {FLOPs: seeds}; `sizes` returns the shapes of a budget.
    """

    budgets: Mapping[float, int]
    sizes: Callable[[float], Sequence[Shape]]

    def points(self) -> Iterator[Point]:
        """Yields a point for every budget, size and seed."""
        for budget, seeds in self.budgets.items():
            for shape, seed in itertools.product(self.sizes(budget), range(seeds)):
                yield Point(shape | {"SEED": seed}, budget)


@dataclasses.dataclass(frozen=True)
class AroundOptimum:
    """The sizes of a budget, by `shapes.around_optimum`."""

    rule: Callable[[float], Shape]
    tokens_per_param: float = 20.0
    count: int = 5
    factor: float = 1.6

    def __call__(self, flops: float) -> list[Shape]:
        return shapes.around_optimum(flops, self.rule, self.tokens_per_param, self.count, self.factor)


@dataclasses.dataclass(frozen=True)
class Ladder:
    """Sizes, each trained on `tokens_per_param` * N tokens."""

    n_params: Sequence[float]
    rule: Callable[[float], Shape]
    tokens_per_param: Sequence[float] = (20.0,)
    seeds: int = 1

    def points(self) -> Iterator[Point]:
        """Yields a point for every size, ratio and seed."""
        sizes = shapes.from_sizes(self.n_params, self.rule)
        for shape, ratio, seed in itertools.product(sizes, self.tokens_per_param, range(self.seeds)):
            yield Point(shape | {"SEED": seed}, tokens_per_param=ratio)


@dataclasses.dataclass(frozen=True)
class Grid:
    """Every combination of values: `axes` is {macro or parameter: values}. A value that is a mapping sets several macros."""

    axes: Mapping[str, Sequence[Any]]
    flops: float | None = None

    def points(self) -> Iterator[Point]:
        """Yields a point for every combination."""
        for values in itertools.product(*self.axes.values()):
            yield Point(merge_macros(zip(self.axes, values, strict=True)), self.flops)


@dataclasses.dataclass(frozen=True)
class Random:
    """`count` independent draws: `axes` is {macro or parameter: distribution}. Equal seeds give equal points."""

    axes: Mapping[str, Callable[[random.Random], Any]]
    count: int
    seed: int = 0
    flops: float | None = None

    def points(self) -> Iterator[Point]:
        """Yields `count` points."""
        for i in range(self.count):
            generator = random.Random(f"{self.seed} {i}")  # point i does not depend on `count`
            yield Point(merge_macros((name, draw(generator)) for name, draw in self.axes.items()), self.flops)


def merge_macros(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Returns macros by name; the items of a value that is a mapping are merged in."""
    macros: dict[str, Any] = {}
    for name, value in pairs:
        macros |= value if isinstance(value, Mapping) else {name: value}
    return macros


@dataclasses.dataclass(frozen=True)
class LogUniform:
    """A log-uniform number between `low` and `high`, rounded to three digits."""

    low: float
    high: float

    def __call__(self, generator: random.Random) -> float:
        value = math.exp(generator.uniform(math.log(self.low), math.log(self.high)))
        return float(f"{value:.3g}")


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of `values`, uniformly."""

    values: Sequence[Any]

    def __call__(self, generator: random.Random) -> Any:
        return generator.choice(list(self.values))

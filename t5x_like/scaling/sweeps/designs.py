"""Which runs a sweep has: IsoFLOP curves, a ladder of sizes, a grid, or random draws.

A design gives points: macros that differ from the base configuration, and the training compute, from which the recipe of
the sweep (recipes.py) works out steps, batch and learning rate. A point without compute takes them from the base.
"""

import dataclasses
import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from t5x_like.scaling.planning import shapes
from t5x_like.scaling.planning.shapes import Shape


@dataclasses.dataclass(frozen=True)
class Point:
    """Macros of a run, and its FLOPs: given, or as tokens per parameter."""

    macros: Mapping[str, Any]
    flops: float | None = None
    tokens_per_param: float | None = None


@dataclasses.dataclass(frozen=True)
class IsoFlop:
    """Several sizes at each budget: `budgets` {FLOPs: seeds}, `sizes` of a budget by a rule (Hoffmann et al., approach 2)."""

    budgets: Mapping[float, int]
    sizes: Callable[[float], Sequence[Shape]]

    def points(self) -> Iterator[Point]:
        for budget, seeds in self.budgets.items():
            for shape, seed in itertools.product(self.sizes(budget), range(seeds)):
                yield Point(shape | {"SEED": seed}, budget)


@dataclasses.dataclass(frozen=True)
class AroundOptimum:
    """Sizes of a budget: see shapes.around_optimum."""

    rule: Callable[[float], Shape]
    tokens_per_param: float = 20.0
    count: int = 5
    factor: float = 1.6

    def __call__(self, flops: float) -> list[Shape]:
        return shapes.around_optimum(flops, self.rule, self.tokens_per_param, self.count, self.factor)


@dataclasses.dataclass(frozen=True)
class Ladder:
    """Sizes, each trained on `tokens_per_param` N tokens."""

    n_params: Sequence[float]
    rule: Callable[[float], Shape]
    tokens_per_param: Sequence[float] = (20.0,)
    seeds: int = 1

    def points(self) -> Iterator[Point]:
        sizes = shapes.of_sizes(self.n_params, self.rule)
        for shape, ratio, seed in itertools.product(sizes, self.tokens_per_param, range(self.seeds)):
            yield Point(shape | {"SEED": seed}, tokens_per_param=ratio)


@dataclasses.dataclass(frozen=True)
class Grid:
    """Every combination of values: `axes` {macro or parameter: values}; a value that is a mapping sets several macros."""

    axes: Mapping[str, Sequence[Any]]
    flops: float | None = None

    def points(self) -> Iterator[Point]:
        for values in itertools.product(*self.axes.values()):
            yield Point(merged(zip(self.axes, values, strict=True)), self.flops)


@dataclasses.dataclass(frozen=True)
class Random:
    """`count` independent draws: `axes` {macro or parameter: a draw of it}. The same seed gives the same points."""

    axes: Mapping[str, Callable[[random.Random], Any]]
    count: int
    seed: int = 0
    flops: float | None = None

    def points(self) -> Iterator[Point]:
        for i in range(self.count):
            source = random.Random(f"{self.seed} {i}")  # point i does not depend on how many there are
            yield Point(merged((name, draw(source)) for name, draw in self.axes.items()), self.flops)


def merged(pairs) -> dict[str, Any]:
    """Macros by name; a mapping stands for all that it holds."""
    macros = {}
    for name, value in pairs:
        macros |= value if isinstance(value, Mapping) else {name: value}
    return macros


@dataclasses.dataclass(frozen=True)
class LogUniform:
    """A number between `low` and `high`, its logarithm uniform, to three digits."""

    low: float
    high: float

    def __call__(self, source: random.Random) -> float:
        drawn = math.exp(source.uniform(math.log(self.low), math.log(self.high)))
        return float(f"{drawn:.3g}")


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of `values`."""

    values: Sequence[Any]

    def __call__(self, source: random.Random) -> Any:
        return source.choice(list(self.values))

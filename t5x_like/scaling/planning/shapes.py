"""Shapes of models of a target size, as the macros of architecture files: WIDTH, LAYERS, HEADS, HEAD_DIM, MLP_DIM.

A size is N, the parameters without the embedding. Per layer, attention has 4 W^2 parameters (W the width) and the MLP has
`matrices` W F with F = mlp_ratio W; an untied head has V W. `jax.eval_shape` later counts the actual parameters.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence

Shape = dict[str, int]
MLP_MULTIPLE = 8


@dataclasses.dataclass(frozen=True)
class FixedDepth:
    """Shapes of a fixed depth: sizes lie on a smooth curve, which tiny ladders need.

    Widths are multiples of `multiple` (None: of head_dim); the number of heads is the one nearest to width / head_dim.
    """

    layers: int
    head_dim: int = 16
    mlp_ratio: float = 8 / 3
    matrices: int = 3
    head_vocab: int = 0  # vocabulary of an untied head; 0 if tied
    multiple: int | None = None

    def __call__(self, n_params: float) -> Shape:
        """Returns the shape whose N is nearest to `n_params`."""
        per_layer = 4 + self.matrices * self.mlp_ratio
        a, b = self.layers * per_layer, self.head_vocab
        width = (math.sqrt(b * b + 4 * a * n_params) - b) / (2 * a)
        multiple = self.multiple or self.head_dim
        below = max(int(width / multiple), 1)
        options = [self.from_width(times * multiple) for times in (below, below + 1)]
        return min(options, key=lambda shape: abs(math.log(self.estimate(shape) / n_params)))

    def from_width(self, width: int) -> Shape:
        """Returns the shape with this width."""
        mlp = max(round(self.mlp_ratio * width / MLP_MULTIPLE), 1) * MLP_MULTIPLE
        heads = max(round(width / self.head_dim), 1)
        sizes = (width, self.layers, heads, self.head_dim, mlp)
        return dict(zip(("WIDTH", "LAYERS", "HEADS", "HEAD_DIM", "MLP_DIM"), sizes, strict=True))

    def estimate(self, shape: Shape) -> float:
        """Returns N of a shape, by the formula above."""
        width, inner = shape["WIDTH"], shape["HEADS"] * shape["HEAD_DIM"]
        return shape["LAYERS"] * width * (4 * inner + self.matrices * shape["MLP_DIM"]) + self.head_vocab * width


@dataclasses.dataclass(frozen=True)
class Proportional:
    """Shapes whose width and depth grow together: of all depths, the one with width / depth nearest to `aspect`."""

    aspect: float = 64.0
    head_dim: int = 64
    mlp_ratio: float = 8 / 3
    matrices: int = 3
    head_vocab: int = 0
    most_layers: int = 200

    def __call__(self, n_params: float) -> Shape:
        """Returns the shape for `n_params`."""
        options = [self.from_depth(layers, n_params) for layers in range(1, self.most_layers + 1)]
        return min(options, key=lambda shape: abs(math.log(shape["WIDTH"] / shape["LAYERS"] / self.aspect)))

    def from_depth(self, layers: int, n_params: float) -> Shape:
        """Returns the shape with this many layers whose N is nearest to `n_params`."""
        return FixedDepth(layers, self.head_dim, self.mlp_ratio, self.matrices, self.head_vocab)(n_params)


def from_sizes(n_params: Sequence[float], rule: Callable[[float], Shape]) -> list[Shape]:
    """Returns the distinct shapes nearest to these sizes."""
    return drop_duplicates(rule(n) for n in n_params)


def around_optimum(
    flops: float, rule: Callable[[float], Shape], tokens_per_param: float, count: int, factor: float
) -> list[Shape]:
    """Returns `count` shapes, by factors of `factor`; the middle one has D / N = tokens_per_param at C = 6 N D."""
    middle = math.sqrt(flops / (6 * tokens_per_param))
    return drop_duplicates(rule(middle * factor ** (i - (count - 1) / 2)) for i in range(count))


def drop_duplicates(shapes: Iterable[Shape]) -> list[Shape]:
    """Returns the distinct shapes in order."""
    ordered = list(shapes)
    return [shape for i, shape in enumerate(ordered) if shape not in ordered[:i]]

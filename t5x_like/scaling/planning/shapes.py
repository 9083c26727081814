"""Shapes of models of a wanted size, as the macros of architecture files: WIDTH, LAYERS, HEADS, HEAD_DIM, MLP_DIM.

A size is a target of N, the parameters but those of the embedding. Attention has 4 W^2 of them in a layer (W the width), an
MLP `matrices` W F with F = mlp_ratio W, a head that is not tied V W. What a model really has is counted later, by
`jax.eval_shape`.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

Shape = dict[str, int]
MLP_MULTIPLE = 8


@dataclasses.dataclass(frozen=True)
class FixedDepth:
    """Only the width grows: sizes lie on a smooth curve, as tiny ladders need it.

    Widths are multiples of `multiple` (None: of head_dim); heads are as many as together come nearest to the width.
    """

    layers: int
    head_dim: int = 16
    mlp_ratio: float = 8 / 3
    matrices: int = 3
    head_vocab: int = 0  # of a head that is not tied
    multiple: int | None = None

    def __call__(self, n_params: float) -> Shape:
        """The shape whose width brings N nearest to `n_params`."""
        per_layer = 4 + self.matrices * self.mlp_ratio
        a, b = self.layers * per_layer, self.head_vocab
        width = (math.sqrt(b * b + 4 * a * n_params) - b) / (2 * a)
        multiple = self.multiple or self.head_dim
        below = max(int(width / multiple), 1)
        options = [self.of_width(times * multiple) for times in (below, below + 1)]
        return min(options, key=lambda shape: abs(math.log(self.estimate(shape) / n_params)))

    def of_width(self, width: int) -> Shape:
        mlp = max(round(self.mlp_ratio * width / MLP_MULTIPLE), 1) * MLP_MULTIPLE
        heads = max(round(width / self.head_dim), 1)
        sizes = (width, self.layers, heads, self.head_dim, mlp)
        return dict(zip(("WIDTH", "LAYERS", "HEADS", "HEAD_DIM", "MLP_DIM"), sizes, strict=True))

    def estimate(self, shape: Shape) -> float:
        """N of a shape, by the formula above."""
        width, inner = shape["WIDTH"], shape["HEADS"] * shape["HEAD_DIM"]
        return shape["LAYERS"] * width * (4 * inner + self.matrices * shape["MLP_DIM"]) + self.head_vocab * width


@dataclasses.dataclass(frozen=True)
class Proportional:
    """Width and depth grow together: of all depths, the shape whose width / depth is nearest to `aspect`."""

    aspect: float = 64.0
    head_dim: int = 64
    mlp_ratio: float = 8 / 3
    matrices: int = 3
    head_vocab: int = 0
    most_layers: int = 200

    def __call__(self, n_params: float) -> Shape:
        options = [self.of_depth(layers, n_params) for layers in range(1, self.most_layers + 1)]
        return min(options, key=lambda shape: abs(math.log(shape["WIDTH"] / shape["LAYERS"] / self.aspect)))

    def of_depth(self, layers: int, n_params: float) -> Shape:
        return FixedDepth(layers, self.head_dim, self.mlp_ratio, self.matrices, self.head_vocab)(n_params)


def of_sizes(n_params: Sequence[float], rule: Callable[[float], Shape]) -> list[Shape]:
    """The shapes nearest to these sizes, every one once."""
    return unique(rule(n) for n in n_params)


def around_optimum(
    flops: float, rule: Callable[[float], Shape], tokens_per_param: float, count: int, factor: float
) -> list[Shape]:
    """`count` shapes, each `factor` larger than the one before, the middle one with D / N = tokens_per_param at C = 6 N D."""
    middle = math.sqrt(flops / (6 * tokens_per_param))
    return unique(rule(middle * factor ** (i - (count - 1) / 2)) for i in range(count))


def unique(shapes) -> list[Shape]:
    found = list(shapes)
    return [shape for i, shape in enumerate(found) if shape not in found[:i]]

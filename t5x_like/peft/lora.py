"""LoRA (Hu et al. 2021): W + scale * A B in place of a frozen W, with A and B of a low rank; rsLoRA and DoRA."""

import dataclasses
import math
import re
import zlib
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from t5x_like import parameters, partitioning
from t5x_like.models import adapted
from t5x_like.peft import targets
from t5x_like.peft.selection import Train
from t5x_like.peft.targets import Target
from t5x_like.types import Params

NAME = "lora"


@dataclasses.dataclass(frozen=True)
class LoRA:
    """Trains low-rank updates of the weights whose path matches one of `targets`; a `parameters.Transform`.

    A weight with several input or output dims (attention's, stacked layers, experts) has A [*inputs, rank] and
    B [rank, *outputs], per layer and expert. B starts at zero, so the model starts as it was. Embedding tables and heads are
    tables [V, D]; a table that embedding and head share is updated for both.

    Attributes:
      targets: regular expressions, searched in paths such as "decoder/layers/mixer/query/kernel".
      rank: of the updates; `ranks` are exceptions, (expression, rank), of which the first that matches counts.
      alpha: scale = alpha / rank, or alpha / sqrt(rank) with `rank_stabilized` (rsLoRA, Kalajdzievski 2023). `alphas` are
        exceptions as `ranks` are.
      dropout: the rate at which the elements that A reads are dropped in training; kernels only.
      magnitudes: train the norm of each output's weights apart from their direction (DoRA, Liu et al. 2024).
      base_format: how the model's kernels and experts, all of which are frozen, are stored: `models.nf4.to_nf4` (QLoRA), or
        another function (array, number of stacked dims) -> node; None: as they are. Then tables that are no targets are kept in
        bfloat16; norms, biases and routers stay as they are. The nodes are whole on every device.
      trained: expressions for parameters of the model that are trained as well, such as "bias$".
      parameters: the number of parameters that are trained; another one is an error. None: any.

    Raises:
      ValueError: a number out of range.
    """

    targets: Sequence[str]
    rank: int = 8
    alpha: float = 16.0
    rank_stabilized: bool = False
    magnitudes: bool = False
    dropout: float = 0.0
    ranks: Sequence[tuple[str, int]] = ()
    alphas: Sequence[tuple[str, float]] = ()
    trained: Sequence[str] = ()
    base_format: Callable | None = None
    parameters: int | None = None

    def __post_init__(self) -> None:
        for name, rank in (("rank", self.rank), *((f"ranks {pattern!r}", rank) for pattern, rank in self.ranks)):
            if not isinstance(rank, int) or rank < 1:
                raise ValueError(f"LoRA.{name}={rank!r} is not a positive whole number; set it to 1 or more")
        for name, alpha in (("alpha", self.alpha), *((f"alphas {pattern!r}", alpha) for pattern, alpha in self.alphas)):
            if not 0 < alpha < math.inf:
                raise ValueError(f"LoRA.{name}={alpha!r} is not a positive number; rank or 2 * rank are usual")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"LoRA.dropout={self.dropout} is not in 0 .. 1 (exclusive); 0 drops nothing")

    def split(self, params: Params, rng: jax.Array) -> tuple[Params, Params]:
        """See `parameters.Transform`; what it adds to `kernel` is `kernel@lora` with a, b and magnitude.

        Raises:
          ValueError: an expression that matches nothing, a weight that cannot be adapted so, or another number of parameters.
        """
        found = targets.find("LoRA.targets", self.targets, params)
        for name, exceptions in (("ranks", self.ranks), ("alphas", self.alphas)):
            for pattern, _ in exceptions:
                if not any(re.search(pattern, target.path) for target in found):
                    raise ValueError(f"LoRA.{name}: {pattern!r} is found in the path of no weight of LoRA.targets")
        base = params if self.base_format is None else store(params, self.base_format, [x.path for x in found])
        own: Params = {}
        for target in found:
            key = jax.random.fold_in(rng, zlib.crc32(target.path.encode()))
            targets.place(own, f"{target.path}{parameters.ADDED}{NAME}", self._initialize(target, key, base))
        chosen, frozen = Train(self.trained).split(base, rng) if self.trained else ({}, base)
        if also := [
            target.path for target in found if any(re.search(pattern, target.path) for pattern in self.trained)
        ]:
            raise ValueError(f"LoRA.trained={tuple(self.trained)} match {also[0]}, which is a target; train it once")
        trained = parameters.union(own, chosen)
        targets.check_count("LoRA.parameters", trained, self.parameters)
        return trained, frozen

    def merge(self, params: Params, frozen: Params) -> Params:
        """See `parameters.Transform`: the targets are nodes `adapted.LowRank`."""
        return targets.attach(parameters.union(params, frozen), NAME, self._weight)

    def scale(self, path: str) -> float:
        """The factor of A B for a weight."""
        alpha, rank = first(self.alphas, path, self.alpha), first(self.ranks, path, self.rank)
        return alpha / (math.sqrt(rank) if self.rank_stabilized else rank)

    def _initialize(self, target: Target, key: jax.Array, base: Params) -> dict[str, Any]:
        """A, B and magnitudes of a weight, boxed.

        Of a kernel A is uniform within 1 / sqrt(inputs) and B is 0. A table is the transpose of a kernel: A, a vector for each
        id, is 0; B is uniform within 1 / sqrt(D), or standard normal of an embedding (as in PEFT).
        """
        if self.dropout and (target.is_table or target.is_expert):
            raise ValueError(
                f"LoRA.dropout={self.dropout}: {target.path} has no dropout, kernels alone do; set it to 0"
            )
        if self.magnitudes and target.is_table:
            raise ValueError(f"LoRA.magnitudes: {target.path} is a table, kernels alone have magnitudes; leave it out")
        rank = first(self.ranks, target.path, self.rank)
        (stacked, stack_names), (ins, in_names), (outs, out_names) = map(target.part, ("stacked", "inputs", "outputs"))
        a_shape, b_shape = (*stacked, *ins, rank), (*stacked, rank, *outs)
        if not target.is_table:
            a, b = uniform(key, a_shape, target.size("inputs")), jnp.zeros(b_shape)
        elif target.path.startswith("head"):
            a, b = jnp.zeros(a_shape), uniform(key, b_shape, target.size("outputs"))
        else:
            a, b = jnp.zeros(a_shape), jax.random.normal(key, b_shape)
        dtype = target.value.dtype
        parts = {"a": (a.astype(dtype), (*stack_names, *in_names, "rank"))}
        parts["b"] = (b.astype(dtype), (*stack_names, "rank", *out_names))
        if self.magnitudes:
            stored = nn.unbox(targets.get(base, target.path))
            wide = stored.astype(jnp.promote_types(dtype, jnp.float32))
            norms = adapted.column_norms(wide, target.input_dims)
            parts["magnitude"] = (norms.astype(dtype), (*stack_names, *out_names))
        return {name: nn.LogicallyPartitioned(value, names) for name, (value, names) in parts.items()}

    def _weight(self, path: str, kernel: Any, added: Params) -> adapted.LowRank:
        a, b = added["a"], added["b"]
        stacked = a.ndim + b.ndim - 2 - len(kernel.shape)
        return adapted.LowRank(
            kernel, a, b, added.get("magnitude"), a.ndim - 1 - stacked, self.scale(path), self.dropout
        )


def store(params: Params, base_format: Callable, adapted_paths: Collection[str]) -> Params:
    """The parameters as `LoRA.base_format` says, boxed.

    Raises:
      ValueError: there are no kernels.
    """
    result = jax.tree.map(lambda x: x, params, is_leaf=partitioning.is_boxed)
    for target in targets.find("LoRA.base_format", (".*",), params):
        if target.is_table and target.path not in adapted_paths:
            value = target.value.astype(jnp.bfloat16)
            targets.place(result, target.path, nn.LogicallyPartitioned(value, target.names))
        elif not target.is_table and "router" not in target.names:
            targets.place(result, target.path, boxed_node(base_format(target.value, target.stacked), target))
    return result


def boxed_node(node: Any, target: Target) -> Any:
    """A node in place of a weight, whose arrays have the weight's stacked dims first, with names for its dims."""
    stacked = target.part("stacked")[1]
    return jax.tree.map(lambda x: nn.LogicallyPartitioned(x, (*stacked, *["rank"] * (x.ndim - len(stacked)))), node)


def uniform(key: jax.Array, shape: tuple[int, ...], inputs: int) -> jax.Array:
    """Uniform within 1 / sqrt(inputs)."""
    bound = 1.0 / math.sqrt(inputs)
    return jax.random.uniform(key, shape, minval=-bound, maxval=bound)


def first(exceptions: Sequence[tuple[str, Any]], path: str, default: Any) -> Any:
    """The value of the first expression that is found in a path, or the default."""
    return next((value for pattern, value in exceptions if re.search(pattern, path)), default)

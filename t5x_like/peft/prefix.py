"""Prefix tuning (Li & Liang 2021): keys and values of virtual tokens in every self-attention, perhaps computed by an MLP."""

import dataclasses
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from t5x_like import checkpoints, parameters, partitioning
from t5x_like.parameters import ADDED
from t5x_like.peft import targets
from t5x_like.types import Params

NAME = "prefix"
LEAVES = r"(^|/)prefix_(key|value)$"


@dataclasses.dataclass(frozen=True)
class Prefix:
    """Trains the keys and values of a model's virtual tokens (its field `virtual_tokens`); a `parameters.Transform`.

    With `hidden`, what is trained are vectors [P, width] and an MLP, tanh(vectors W) U, that gives the keys and values of all
    layers: section 4.3 of the paper, which finds this stabler. Models are decoded with its result.

    `parameters` is the number of parameters that are trained; another one is an error. None: any.
    """

    hidden: int | None = None
    width: int = 512
    parameters: int | None = None

    def __post_init__(self) -> None:
        for name in ("hidden", "width"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"Prefix.{name}={value!r} is not a positive whole number; set it to 1 or more")

    def split(self, params: Params, rng: jax.Array) -> tuple[Params, Params]:
        """See `parameters.Transform`.

        Raises:
          ValueError: the model has no virtual tokens, or another number of parameters.
        """
        own, frozen = split_prefix("Prefix", params)
        trained = own if self.hidden is None else {f"decoder{ADDED}{NAME}": self._mlp(own, rng)}
        targets.check_count("Prefix.parameters", trained, self.parameters)
        return trained, frozen

    def merge(self, params: Params, frozen: Params) -> Params:
        """See `parameters.Transform`."""
        added = params.get(f"decoder{ADDED}{NAME}")
        if added is None:
            return parameters.union(params, frozen)
        hidden_PF = jnp.tanh(added["vectors"] @ added["inner"]["kernel"] + added["inner"]["bias"])
        result: Params = {}
        for name, leaf in added["outer"].items():
            x = jnp.moveaxis(jnp.tensordot(hidden_PF, leaf["kernel"], 1) + leaf["bias"], 0, -3)
            targets.place(result, name.replace(".", "/"), x)
        return parameters.union(result, frozen)

    def _mlp(self, own: Params, rng: jax.Array) -> Params:
        """The vectors and the MLP, boxed; `outer` has a kernel [hidden, *layers, G, K] for each array of keys or values."""
        leaves = checkpoints.leaves_by_name(jax.tree.map(Leaf, own, is_leaf=partitioning.is_boxed))
        keys = iter(jax.random.split(rng, len(leaves) + 2))
        count = next(iter(leaves.values())).box.value.shape[-3]
        hidden: Any = self.hidden

        def matrix(shape: tuple[int, ...], names: tuple[str, ...]) -> Any:
            x = jax.random.normal(next(keys), shape) / math.sqrt(shape[0])
            return nn.LogicallyPartitioned(x, names)

        outer = {}
        for name, leaf in leaves.items():
            shape, names = leaf.box.value.shape, leaf.box.names
            rest, rest_names = (*shape[:-3], *shape[-2:]), (*names[:-3], *names[-2:])
            bias = nn.LogicallyPartitioned(jnp.zeros(rest), rest_names)
            outer[name] = {"kernel": matrix((hidden, *rest), ("rank", *rest_names)), "bias": bias}
        return {
            "vectors": nn.LogicallyPartitioned(
                jax.random.normal(next(keys), (count, self.width)), ("position", "rank")
            ),
            "inner": {
                "kernel": matrix((self.width, hidden), ("rank", "rank")),
                "bias": nn.LogicallyPartitioned(jnp.zeros(hidden), ("rank",)),
            },
            "outer": outer,
        }


@dataclasses.dataclass(frozen=True)
class Leaf:
    """A boxed parameter, as one leaf of a tree."""

    box: Any


def split_prefix(argument: str, params: Params) -> tuple[Params, Params]:
    """(the keys and values of virtual tokens, the other parameters).

    Raises:
      ValueError: there are none; the message starts with `argument`.
    """
    own = parameters.select(params, lambda path: re.search(LEAVES, path) is not None)
    if not own:
        raise ValueError(f"{argument} trains virtual tokens, but the model has none; set its field virtual_tokens")
    return own, parameters.select(params, lambda path: re.search(LEAVES, path) is None)

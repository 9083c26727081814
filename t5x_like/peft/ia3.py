"""(IA)3 (Liu et al. 2022): learned factors of keys, values and the hidden units of MLPs; they start at 1."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from t5x_like.models import adapted
from t5x_like.parameters import ADDED, union
from t5x_like.peft import targets
from t5x_like.peft.targets import Target
from t5x_like.types import Params

NAME = "ia3"


@dataclasses.dataclass(frozen=True)
class IA3:
    """Trains a factor for each output, or each input, of the kernels that match; a `parameters.Transform`.

    Attributes:
      outputs: expressions for kernels whose outputs are scaled, with their bias: keys and values.
      inputs: expressions for kernels whose inputs are scaled: the last kernel of an MLP, which reads the hidden units.
      parameters: the number of parameters that are trained; another one is an error. None: any.
    """

    outputs: Sequence[str] = (r"(mixer|cross)/(key|value)/kernel$",)
    inputs: Sequence[str] = (r"mlp/down/kernel$",)
    parameters: int | None = None

    def split(self, params: Params, rng: jax.Array) -> tuple[Params, Params]:
        """See `parameters.Transform`; what it adds to `kernel` is `kernel@ia3` with outputs or inputs.

        Raises:
          ValueError: an expression that matches nothing, a weight that cannot be scaled, or another number of parameters.
        """
        trained: Params = {}
        scaled: set[str] = set()
        for kind, patterns in (("outputs", self.outputs), ("inputs", self.inputs)):
            for target in targets.find(f"IA3.{kind}", patterns, params) if patterns else ():
                path = f"{target.path}{ADDED}{NAME}"
                if path in scaled:
                    raise ValueError(f"IA3.outputs and IA3.inputs both match {target.path}; scale it once")
                scaled.add(path)
                targets.place(trained, path, {kind: {"scale": ones(target, kind)}})
        if not trained:
            raise ValueError("IA3.outputs=() and IA3.inputs=() scale nothing; give expressions")
        targets.check_count("IA3.parameters", trained, self.parameters)
        return trained, params

    def merge(self, params: Params, frozen: Params) -> Params:
        """See `parameters.Transform`: the kernels are nodes `adapted.Scaled`, and biases of scaled outputs are scaled."""
        tree = scale_biases(union(params, frozen))
        return targets.attach(tree, NAME, weight)


def ones(target: Target, kind: str) -> nn.LogicallyPartitioned:
    """The factors of the outputs or inputs of a kernel, boxed; the other dims have size 1.

    Raises:
      ValueError: the target is a table, or has experts.
    """
    if target.is_table or target.is_expert:
        raise ValueError(f"IA3.{kind}: {target.path} is a table or has experts; scale kernels alone")
    shared = range(target.stacked + target.inputs, len(target.names)) if kind == "inputs" else target.input_dims
    shape = [1 if i in shared else size for i, size in enumerate(target.value.shape)]
    names = ["rank" if i in shared else name for i, name in enumerate(target.names)]
    return nn.LogicallyPartitioned(jnp.ones(shape, target.value.dtype), tuple(names))


def weight(path: str, kernel: Any, added: Mapping[str, Mapping[str, jax.Array]]) -> adapted.Scaled:
    """The scaled kernel."""
    ((kind, part),) = added.items()
    return adapted.Scaled(kernel, part["scale"], kind == "inputs")


def scale_biases(tree: Params) -> Params:
    """The tree, in which each bias beside a kernel whose outputs are scaled is multiplied by the same factors."""
    result = {name: scale_biases(value) if isinstance(value, Mapping) else value for name, value in tree.items()}
    factors = tree.get(f"kernel{ADDED}{NAME}", {}).get("outputs")
    if factors is not None and "bias" in tree:
        bias = tree["bias"]
        result["bias"] = bias * factors["scale"].reshape(bias.shape).astype(bias.dtype)
    return result

"""Coordinate check (Yang et al. 2022, appendix D): under muP the change of activations does not depend on the width."""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from t5x_like.training.state import Layout
from t5x_like.training.step import TrainStep
from t5x_like.types import Objective, Params


@dataclasses.dataclass(frozen=True)
class Movement:
    """The change of a module's output since initialisation: its root mean square by width."""

    module: str
    rms: Mapping[int, float]

    @property
    def slope(self) -> float:
        """d log rms / d log width; 0 if the change does not depend on the width."""
        return float(np.polyfit(np.log(list(self.rms)), np.log([max(x, 1e-12) for x in self.rms.values()]), 1)[0])


def measure_movements(
    model: nn.Module,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    layout: Layout,
    batches: Sequence[Mapping[str, np.ndarray]],
) -> dict[str, float]:
    """Trains one step per batch; returns {module: rms of the change of its output on the first batch}."""
    state = layout.create(0)
    step = jax.jit(TrainStep(model.apply, objective, optimizer, lambda params, frozen: params).__call__)

    compiled = jax.jit(lambda params: capture_outputs(model, params, batches[0]))
    before = compiled(state.params)
    for batch in batches:
        state, _ = step(state, batch)
    after = compiled(state.params)
    return {name: float(jnp.sqrt(jnp.mean((after[name] - before[name]) ** 2))) for name in before}


def capture_outputs(model: nn.Module, params: Params, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """Returns the outputs of all modules that give one array per token, by path."""
    _, variables = model.apply({"params": params}, batch, capture_intermediates=True, mutable=["intermediates"])
    leaves = jax.tree_util.tree_leaves_with_path(variables["intermediates"])
    named = {"/".join(str(key.key) for key in path if hasattr(key, "key")): leaf for path, leaf in leaves}
    return {name.removesuffix("/__call__"): leaf for name, leaf in named.items() if jnp.ndim(leaf) >= 3}


def compare_widths(by_width: Mapping[int, Mapping[str, float]]) -> list[Movement]:
    """Returns the movements of the modules that changed at every width; `by_width` is {width: {module: rms}}."""
    common = set.intersection(*({name for name, rms in moved.items() if rms > 0} for moved in by_width.values()))
    first = next(iter(by_width.values()))
    return [
        Movement(name, {width: moved[name] for width, moved in by_width.items()}) for name in first if name in common
    ]

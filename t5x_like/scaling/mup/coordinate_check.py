"""Coordinate check (Yang et al. 2022, appendix D): under muP activations move by amounts that do not depend on the width."""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from t5x_like.training.state import Layout


@dataclasses.dataclass(frozen=True)
class Movement:
    """Root mean square of how far the output of a module moved since initialisation, by width, and its slope in logs."""

    module: str
    rms: Mapping[int, float]

    @property
    def slope(self) -> float:
        """d log rms / d log width: 0 where the width does not matter."""
        return float(np.polyfit(np.log(list(self.rms)), np.log([max(x, 1e-12) for x in self.rms.values()]), 1)[0])


def movements(model: nn.Module, objective, optimizer: optax.GradientTransformation, layout: Layout, batches: Sequence):
    """{module: rms of the change of its output on the first batch} after a step on every batch."""
    state = layout.create(0)
    params, opt_state = state.params, state.opt_state

    @jax.jit
    def step(params, opt_state, batch):
        def loss(params):
            total, weight, _ = objective(model.apply, params, batch, None)
            return total / weight

        grads = jax.grad(loss)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    seen = jax.jit(lambda params: outputs(model, params, batches[0]))
    before = seen(params)
    for batch in batches:
        params, opt_state = step(params, opt_state, batch)
    after = seen(params)
    return {name: float(jnp.sqrt(jnp.mean((after[name] - before[name]) ** 2))) for name in before}


def outputs(model: nn.Module, params, batch) -> dict[str, jax.Array]:
    """The outputs of all modules that give one array a token."""
    _, kept = model.apply({"params": params}, batch, capture_intermediates=True, mutable=["intermediates"])
    leaves = jax.tree_util.tree_leaves_with_path(kept["intermediates"])
    named = {"/".join(str(key.key) for key in path if hasattr(key, "key")): leaf for path, leaf in leaves}
    return {name.removesuffix("/__call__"): leaf for name, leaf in named.items() if jnp.ndim(leaf) >= 3}


def compare_widths(by_width: Mapping[int, Mapping[str, float]]) -> list[Movement]:
    """Modules that all widths have and that moved, with their movements."""
    common = set.intersection(*({name for name, x in found.items() if x > 0} for found in by_width.values()))
    first = next(iter(by_width.values()))
    return [Movement(name, {w: found[name] for w, found in by_width.items()}) for name in first if name in common]

"""The train step: one update of the parameters, as a pure function of state and batch."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from t5x_like import optimizers
from t5x_like.training.state import Layout, TrainState
from t5x_like.types import Apply, Metrics, Objective, Optimizer, Params

Batch = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class TrainStep:
    """`step(state, batch, references, limits) -> (state, metrics)`; a pure function, to be jitted by `jit_step`.

    The gradient of a batch is that of its sum of losses over its sum of weights, over all `microbatches` that it is split
    into. Metrics are {name: (total, count)}; `grad_norm` is the norm that the optimizer clips.

    Attributes:
      view: (params, frozen) -> the parameters that the model is applied to.
      group: this many neighbouring rows stay in one microbatch.
    """

    apply: Apply
    objective: Objective
    optimizer: Optimizer
    view: Callable[[Params, Params], Params]
    microbatches: int = 1
    group: int = 1

    def __call__(
        self,
        state: TrainState,
        batch: Batch,
        references: Mapping[str, Params] | None = None,
        limits: Mapping[str, jax.Array] | None = None,
    ) -> tuple[TrainState, Metrics]:
        """One update. An update whose loss or gradient norm exceeds `limits` is skipped, see `skip_beyond`."""

        def loss(params: Params, batch: Batch, rng: jax.Array) -> tuple[jax.Array, tuple[jax.Array, Metrics]]:
            extra = {"references": references} if references else {}
            viewed = self.view(params, state.frozen)
            total, weight, metrics = self.objective(self.apply, viewed, batch, rng, **extra)
            # The gradient of the mean saves a pass over all gradients to divide them.
            return total / divisor(weight) if self.microbatches == 1 else total, (weight, metrics)

        rng = jax.random.fold_in(state.rng, state.step)
        gradient = jax.grad(loss, has_aux=True)
        grads, weight, metrics = accumulate(gradient, state.params, batch, rng, self.microbatches, self.group)
        if self.microbatches > 1:
            grads = jax.tree.map(lambda g: g / divisor(weight).astype(g.dtype), grads)
        updates, opt_state = self.optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics["grad_norm"] = (optax.tree.norm(grads), jnp.float32(1))
        rate = optimizers.learning_rate_of(opt_state)
        if rate is not None:
            metrics["learning_rate"] = (rate, jnp.float32(1))
        after = state.replace(step=state.step + 1, params=params, opt_state=opt_state)
        return (after, metrics) if limits is None else skip_beyond(limits, state, after, metrics)


def divisor(weight: jax.Array) -> jax.Array:
    """The sum of weights, at least 1e-6, as a constant of the gradient."""
    return jax.lax.stop_gradient(jnp.maximum(weight, 1e-6))


def jit_step(
    step: TrainStep,
    layout: Layout,
    batch: NamedSharding | Mapping[str, NamedSharding],
    mesh: Mesh,
    limited: bool = False,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Compiles a train step for a mesh; the buffers of the state are reused.

    `batch` is the sharding of all arrays of a batch, or of each by name. References are arguments of the program, with the
    shardings they have. A `limited` step takes `limits` too.
    """
    everywhere = NamedSharding(mesh, PartitionSpec())
    inputs = (layout.shardings, batch, None)
    return jax.jit(
        step.__call__,
        donate_argnums=0,
        in_shardings=(*inputs, everywhere) if limited else inputs,
        out_shardings=(layout.shardings, everywhere),
    )


def skip_beyond(
    limits: Mapping[str, jax.Array], before: TrainState, after: TrainState, metrics: Metrics
) -> tuple[TrainState, Metrics]:
    """(`after`, metrics) if all metrics named in `limits` are within them, else `before` with the step counted.

    Metric `skipped` is 1 for an update that is left out.
    """
    values = {name: metrics[name] for name in limits if name in metrics}
    within = jnp.array([total / jnp.maximum(count, 1e-9) <= limits[name] for name, (total, count) in values.items()])
    keep = jnp.all(within)
    state = jax.tree.map(lambda new, old: jnp.where(keep, new, old), after, before.replace(step=after.step))
    return state, {**metrics, "skipped": (1.0 - keep, jnp.float32(1))}


def accumulate(
    gradient: Callable[..., Any], params: Params, batch: Batch, rng: jax.Array, microbatches: int, group: int = 1
) -> tuple[Params, jax.Array, dict[str, Any]]:
    """Sums of gradients, weights and metrics over the microbatches of a batch: those of the whole batch.

    `gradient(params, batch, rng)` returns (gradients, (weight, metrics)). Groups of `group` neighbouring rows stay together.
    """
    if microbatches == 1:
        grads, (weight, metrics) = gradient(params, batch, rng)
        return grads, weight, dict(metrics)

    def add(sums: Any, inputs: Any) -> tuple[Any, None]:
        index, micro = inputs
        grads, aux = gradient(params, micro, jax.random.fold_in(rng, index))
        return jax.tree.map(jnp.add, sums, (grads, aux)), None

    parts = (jnp.arange(microbatches), jax.tree.map(lambda x_B: split_rows(x_B, microbatches, group), batch))
    shapes = jax.eval_shape(gradient, params, jax.tree.map(lambda x: x[0], parts[1]), rng)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    (grads, (weight, metrics)), _ = jax.lax.scan(add, zeros, parts)
    return grads, weight, dict(metrics)


def split_rows(x_B: jax.Array, microbatches: int, group: int) -> jax.Array:
    """[B, ...] -> [microbatches, B / microbatches, ...]; microbatch i has the groups i, i + microbatches, ...

    Neighbouring microbatches take neighbouring groups, so that every device keeps its own rows.
    """
    groups = x_B.reshape(x_B.shape[0] // (microbatches * group), microbatches, group, *x_B.shape[1:])
    return jnp.moveaxis(groups, 1, 0).reshape(microbatches, x_B.shape[0] // microbatches, *x_B.shape[1:])

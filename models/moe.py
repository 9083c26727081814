"""Mixture-of-experts MLPs: a router, experts stored as one stacked MLP, and functions that dispatch tokens to experts.

A dispatch function maps (experts, x_BLD, routing) to (y_BLD, the share of dropped choices [B]). `dense` and `dropless` never
drop a token and give the same numbers; `Capacity` drops what exceeds an expert's capacity, but nothing in decoding.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from t5x_like.models import adapted
from t5x_like.models.context import Context
from t5x_like.models.linear import DEFAULT_INIT, Dense, Initializer, constrain, merge_dims, with_axes
from t5x_like.models.mlp import gelu_tanh
from t5x_like.models.routers import Choices, Routing


@jax.vmap
def stacked_product(x_BCD: jax.Array, w_DF: jax.Array) -> jax.Array:
    """Multiplies the tokens of every expert by its matrix: [E, B, C, D], [E, D, F] -> [E, B, C, F]."""
    return merge_dims(lambda x: x @ w_DF, x_BCD)


def dense(experts: Callable, x_BLD: jax.Array, routing: Routing) -> tuple[jax.Array, jax.Array]:
    """Applies every expert to every token: no dropping, E / k times the work. For few experts and for CPUs."""
    y_EBLD = experts(jnp.broadcast_to(x_BLD, (routing.num_experts, *x_BLD.shape)), stacked_product)
    choice_BLSE = jax.nn.one_hot(routing.experts_BLS, routing.num_experts)
    weight_BLE = jnp.einsum("BLSE,BLS->BLE", choice_BLSE, routing.weights_BLS).astype(x_BLD.dtype)
    return jnp.einsum("EBLD,BLE->BLD", y_EBLD, weight_BLE), jnp.zeros(x_BLD.shape[0])


def dropless(experts: Callable, x_BLD: jax.Array, routing: Routing) -> tuple[jax.Array, jax.Array]:
    """Sorts tokens by expert and computes one ragged product per matrix (MegaBlocks, Gale et al. 2023): no dropping."""
    rows, length, width = x_BLD.shape
    top_k = routing.experts_BLS.shape[-1]
    # Padding has expert E: it is sorted last and goes to the last expert, with weight 0.
    expert_T = routing.experts_BLS.reshape(-1)
    order_T = jnp.argsort(expert_T, stable=True)
    sizes_E = jnp.bincount(jnp.minimum(expert_T, routing.num_experts - 1), length=routing.num_experts)
    x_TD = x_BLD.reshape(-1, width)[order_T // top_k]
    y_TD = experts(x_TD, lambda x_TD, w_EDF: jax.lax.ragged_dot(x_TD, w_EDF, sizes_E.astype(jnp.int32)))
    y_BLSD = jnp.zeros_like(y_TD).at[order_T].set(y_TD).reshape(rows, length, top_k, width)
    y_BLD = jnp.einsum("BLSD,BLS->BLD", y_BLSD, routing.weights_BLS.astype(x_BLD.dtype))
    return y_BLD, jnp.zeros(rows)


@dataclasses.dataclass(frozen=True)
class Capacity:
    """Each expert takes C = ceil(factor * k * L / E) tokens of a row, or `tokens` if given, and drops the rest (GShard,
    Switch).

    First choices have priority over second ones, then earlier tokens over later ones. So with more than one choice a token
    can lose its second one to a later token's first: this is strictly causal only for top_k = 1, `dense` and `dropless` always.
    """

    factor: float = 1.25
    tokens: int | None = None

    def __call__(self, experts: Callable, x_BLD: jax.Array, routing: Routing) -> tuple[jax.Array, jax.Array]:
        top_k = routing.experts_BLS.shape[-1]
        length = x_BLD.shape[1]
        capacity = math.ceil(self.factor * top_k * length / routing.num_experts)
        capacity = capacity if self.tokens is None else min(self.tokens, top_k * length)
        dispatch_BLSEC = assign_capacity(routing, capacity)
        dispatch_BLEC = jnp.sum(dispatch_BLSEC, axis=2).astype(x_BLD.dtype)
        axes = ("expert", "expert_batch", "capacity", "embed")
        x_EBCD = constrain(jnp.einsum("BLEC,BLD->EBCD", dispatch_BLEC, x_BLD), *axes)
        y_EBCD = experts(x_EBCD, stacked_product)
        y_EBCD = constrain(y_EBCD, *axes)
        combine_BLEC = jnp.einsum("BLSEC,BLS->BLEC", dispatch_BLSEC, routing.weights_BLS)
        y_BLD = jnp.einsum("BLEC,EBCD->BLD", combine_BLEC.astype(x_BLD.dtype), y_EBCD)
        chosen_B = jnp.maximum(jnp.sum(routing.real_BLS, axis=(1, 2)), 1)
        return y_BLD, 1.0 - jnp.sum(dispatch_BLSEC, axis=(1, 2, 3, 4)) / chosen_B


def assign_capacity(routing: Routing, capacity: int) -> jax.Array:
    """Returns the place of each choice in its expert's capacity, one-hot [B, L, S, E, C]; all zero for dropped choices."""
    rows, length, top_k = routing.experts_BLS.shape
    choice_BLSE = jax.nn.one_hot(routing.experts_BLS, routing.num_experts, dtype=jnp.int32)
    in_order_BNE = jnp.moveaxis(choice_BLSE, 2, 1).reshape(rows, top_k * length, -1)
    place_BNE = jnp.cumsum(in_order_BNE, axis=1) - 1
    place_BLSE = jnp.moveaxis(place_BNE.reshape(rows, top_k, length, -1), 1, 2)
    return jax.nn.one_hot(place_BLSE, capacity) * choice_BLSE[..., None]


def without_drops(dispatch: Callable, routing: Routing | Choices) -> Callable:
    """The dispatch function of decoding, where results must not depend on padding or on the tokens that share a call."""
    if not isinstance(dispatch, Capacity) or not isinstance(routing, Routing):
        return dispatch
    _, length, top_k = routing.experts_BLS.shape
    return dense if length * top_k <= routing.num_experts else dropless  # for few tokens `dense` does no more work


def expert_choice(experts: Callable, x_BLD: jax.Array, choices: Choices) -> tuple[jax.Array, jax.Array]:
    """Applies every expert to the C tokens of a row that it chose (`routers.ExpertChoice`); tokens without expert are dropped."""
    tokens_BEC, weights_BEC = choices.tokens_BEC, choices.weights_BEC
    rows_B11 = jnp.arange(x_BLD.shape[0])[:, None, None]
    axes = ("expert", "expert_batch", "capacity", "embed")
    x_EBCD = constrain(jnp.swapaxes(x_BLD[rows_B11, tokens_BEC], 0, 1), *axes)
    y_EBCD = constrain(experts(x_EBCD, stacked_product), *axes)
    y_BECD = jnp.swapaxes(y_EBCD, 0, 1) * weights_BEC[..., None].astype(x_BLD.dtype)
    y_BLD = jnp.zeros_like(x_BLD).at[rows_B11, tokens_BEC].add(y_BECD)
    chosen_BL = jnp.zeros(x_BLD.shape[:2]).at[rows_B11, tokens_BEC].max(weights_BEC > 0)
    return y_BLD, 1.0 - jnp.sum(chosen_BL, axis=1) / jnp.maximum(choices.real_B, 1)


class Moe(nn.Module):
    """The weighted sum of the chosen experts' MLPs, plus `shared`, an MLP for every token (DeepSeekMoE, Dai et al. 2024).

    `shared_gate` multiplies the shared MLP's output by sigmoid(x w) (Qwen MoE). Fine-grained experts are many experts with a
    small hidden_dim.
    """

    router: nn.Module
    hidden_dim: int
    activation: Callable = gelu_tanh
    gated: bool = False
    dispatch: Callable = Capacity()
    kernel_init: Initializer = DEFAULT_INIT
    out_init: Initializer | None = None
    shared: nn.Module | None = None
    shared_gate: bool = False

    @nn.compact
    def __call__(self, x_BLD: jax.Array, ctx: Context) -> jax.Array:
        routing, width = self.router(x_BLD, ctx), x_BLD.shape[-1]
        out_init = self.out_init or self.kernel_init
        inner = ("up", "gate") if self.gated else ("up",)
        w_EDF = {
            name: self.kernel(name, routing, (width, self.hidden_dim), ("embed", "mlp"), self.kernel_init)
            for name in inner
        }
        w_EFD = self.kernel("down", routing, (self.hidden_dim, width), ("mlp", "embed"), out_init)

        def experts(x: jax.Array, product: Callable) -> jax.Array:
            h = self.activation(product(x, w_EDF["gate" if self.gated else "up"].astype(x.dtype)))
            if self.gated:
                h *= product(x, w_EDF["up"].astype(x.dtype))
            return product(h, w_EFD.astype(x.dtype))

        dispatch = without_drops(self.dispatch, routing) if ctx.decode else self.dispatch
        y_BLD, dropped_B = dispatch(experts, x_BLD, routing)
        self.sow("metrics", "dropped", dropped_B)
        if self.shared is not None:
            shared_BLD = self.shared(x_BLD, ctx)
            if self.shared_gate:
                gate = Dense((1,), ("embed", "router"), kernel_init=self.kernel_init, name="shared_router")
                shared_BLD *= jax.nn.sigmoid(gate(x_BLD.astype(jnp.float32))).astype(x_BLD.dtype)
            y_BLD += shared_BLD
        return constrain(y_BLD, "batch", "length", "embed")

    def kernel(
        self,
        name: str,
        routing: Routing | Choices,
        shape: tuple[int, int],
        axes: tuple[str, str],
        init: Initializer,
    ) -> jax.Array:
        """Returns the parameter `name`, one matrix of `shape` per expert."""

        def stacked(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
            return jax.vmap(lambda k: init(k, shape[1:], jnp.float32))(jax.random.split(key, shape[0]))

        named = with_axes(stacked, ("expert", *axes))
        return adapted.param(self, name, named, (routing.num_experts, *shape))

"""Routers choose the experts of each token and their weights."""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from t5x_like.models.context import Context
from t5x_like.models.linear import DEFAULT_INIT, Dense, Initializer


@struct.dataclass
class Routing:
    """The S experts of every token and the weights of their outputs; padding tokens have weight 0 and expert `num_experts`."""

    experts_BLS: jax.Array
    weights_BLS: jax.Array
    num_experts: int = struct.field(pytree_node=False)

    @property
    def real_BLS(self) -> jax.Array:
        """True for the choices of tokens that are not padding."""
        return self.experts_BLS < self.num_experts


class TopK(nn.Module):
    """Softmax over experts, then the k best (Switch: k = 1, not renormalised; Mixtral: k = 2, renormalised).

    Sows two losses into `losses`, per row of the batch so that accumulation and sharding cannot change them:
    load_balance = weight * E * sum_e f_e P_e (Fedus et al. 2022; 1 * weight when balanced) and
    router_z = weight * mean(logsumexp(logits)^2) (Zoph et al. 2022).

    Raises:
      ValueError: `top_k` > `num_experts`.
    """

    num_experts: int
    top_k: int = 2
    normalize: bool = True
    load_balance_weight: float = 0.01
    z_weight: float = 0.0
    kernel_init: Initializer = DEFAULT_INIT

    @nn.compact
    def __call__(self, x_BLD: jax.Array, ctx: Context) -> Routing:
        if self.top_k > self.num_experts:
            raise ValueError(f"top_k={self.top_k} is more than num_experts={self.num_experts}; lower top_k")
        axes = ("embed", "router")
        router = Dense((self.num_experts,), axes, kernel_init=self.kernel_init, name="gate")
        logits_BLE = router(x_BLD.astype(jnp.float32))
        probs_BLE = jax.nn.softmax(logits_BLE, axis=-1)
        weights_BLS, experts_BLS = jax.lax.top_k(probs_BLE, self.top_k)
        if self.normalize:
            weights_BLS /= jnp.sum(weights_BLS, axis=-1, keepdims=True)
        real_BL1 = (ctx.queries.segments_BL > 0)[..., None]
        self.sow_losses(logits_BLE, probs_BLE, experts_BLS, real_BL1)
        experts_BLS = jnp.where(real_BL1, experts_BLS, self.num_experts)
        return Routing(experts_BLS, jnp.where(real_BL1, weights_BLS, 0.0), self.num_experts)

    def sow_losses(
        self, logits_BLE: jax.Array, probs_BLE: jax.Array, experts_BLS: jax.Array, real_BL1: jax.Array
    ) -> None:
        """Sows each row's auxiliary losses over its real tokens."""
        tokens_B = jnp.maximum(jnp.sum(real_BL1, axis=(1, 2)), 1).astype(jnp.float32)

        def mean(y_BLN: jax.Array) -> jax.Array:
            return jnp.sum(y_BLN * real_BL1, axis=1) / tokens_B[:, None]

        chosen_BLE = jnp.sum(jax.nn.one_hot(experts_BLS, self.num_experts), axis=2) / self.top_k
        balance_B = self.num_experts * jnp.sum(mean(chosen_BLE) * mean(probs_BLE), axis=-1)
        z_BL1 = jnp.square(jax.nn.logsumexp(logits_BLE, axis=-1, keepdims=True))
        self.sow("losses", "load_balance", self.load_balance_weight * balance_B)
        self.sow("losses", "router_z", self.z_weight * mean(z_BL1)[:, 0])


@struct.dataclass
class Choices:
    """The C tokens of a row that every expert chose, their weights (0: padding), and the number of the row's real tokens."""

    tokens_BEC: jax.Array
    weights_BEC: jax.Array
    real_B: jax.Array
    num_experts: int = struct.field(pytree_node=False)


class ExpertChoice(nn.Module):
    """Every expert chooses its C = ceil(factor * L / E) likeliest tokens of a row (Zhou et al. 2022): balanced without a loss.

    Used with `moe.expert_choice`. An earlier token's experts depend on later tokens: for encoders, not for causal decoders.
    """

    num_experts: int
    factor: float = 2.0
    kernel_init: Initializer = DEFAULT_INIT

    @nn.compact
    def __call__(self, x_BLD: jax.Array, ctx: Context) -> Choices:
        length = x_BLD.shape[1]
        capacity = min(math.ceil(self.factor * length / self.num_experts), length)
        router = Dense((self.num_experts,), ("embed", "router"), kernel_init=self.kernel_init, name="gate")
        probs_BLE = jax.nn.softmax(router(x_BLD.astype(jnp.float32)), axis=-1)
        real_BL = ctx.queries.segments_BL > 0
        weights_BEC, tokens_BEC = jax.lax.top_k(jnp.swapaxes(probs_BLE * real_BL[..., None], 1, 2), capacity)
        return Choices(tokens_BEC, weights_BEC, jnp.sum(real_BL, axis=1), self.num_experts)

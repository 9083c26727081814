"""What the layers of a model compute: attention maps, and the tokens that each layer would predict (the logit lens)."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from t5x_like.models import kernels
from t5x_like.models.attention import Attention, CrossAttention
from t5x_like.models.blocks import Block
from t5x_like.types import Model, Params

# A scan stacks what modules sow into the collection "metrics".
COLLECTION, NAME = "metrics", "observed"
Observe = Callable[[nn.Module, str, tuple, Any], jax.Array | None]  # (module, method, arguments, result) -> value


class Lens(NamedTuple):
    """The K most likely tokens after each layer at each position, the most likely first, with their log-probabilities."""

    ids_NLK: np.ndarray
    log_probs_NLK: np.ndarray


def attention_maps(model: Model, params: Params, batch: Mapping[str, Any], part: str) -> np.ndarray:
    """The attention probabilities of the first row, float32 [N, H, L, M], in the order of the layers.

    `part` is "encoder" or "decoder", whose attention to itself is meant, or "cross", the decoder's to the encoder.

    Raises:
      ValueError: the model has no such attention.
    """
    tower = "decoder" if part == "cross" else part

    def observe(module: nn.Module, method: str, args: tuple, _: Any) -> jax.Array | None:
        if not isinstance(module, Attention) or method != "attend" or module.path[0] != tower:
            return None
        if isinstance(module, CrossAttention) != (part == "cross"):
            return None
        q_BLHK, k_BMGK, _, bias_AHLM, mask_ALM, *_ = args
        scale = module.head_dim**-0.5 if module.scale is None else module.scale
        rows, length, groups, _ = k_BMGK.shape
        # The weighted sum of one-hot values is the weights.
        v_BMGM = jnp.broadcast_to(jnp.eye(length)[None, :, None], (rows, length, groups, length))
        w_BLHM = kernels.reference(q_BLHK, k_BMGK, v_BMGM, bias_AHLM, mask_ALM, scale, cap=module.soft_cap)
        return jnp.swapaxes(w_BLHM, 1, 2)

    maps = layer_values(model, params, batch, observe, 4)
    if not maps:
        raise ValueError(f"{type(model).__name__} has no attention of part={part!r}; its sides are {model.sides}")
    return np.stack([np.asarray(x_BHLM[0], np.float32) for x_BHLM in maps])


def logit_lens(model: Model, params: Params, batch: Mapping[str, Any], top: int) -> Lens:
    """The tokens that the last norm and the head predict from each block's output in the first row (nostalgebraist 2020).

    The blocks are the decoder's, or those of a model that has only an encoder.
    """

    def observe(module: nn.Module, method: str, _: tuple, result: Any) -> jax.Array | None:
        is_block = isinstance(module, Block) and method == "__call__"
        return result if is_block and module.path[0] == model.sides[-1] else None

    def read_out(model: Any, x_BLD: jax.Array) -> jax.Array:
        stack = getattr(model, model.sides[-1])
        return model.logits(x_BLD if stack.norm is None else stack.norm(x_BLD))

    @jax.jit
    def predict(params: Params, x_BLD: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits_BLV = model.apply({"params": params}, x_BLD[:1], method=read_out)
        return jax.lax.top_k(jax.nn.log_softmax(logits_BLV[0].astype(jnp.float32)), top)

    found = [predict(params, x_BLD) for x_BLD in layer_values(model, params, batch, observe, 3)]
    log_probs, ids = ([np.asarray(layer[i]) for layer in found] for i in (0, 1))
    return Lens(np.stack(ids), np.stack(log_probs))


def layer_values(
    model: Model, params: Params, batch: Mapping[str, Any], observe: Observe, rank: int
) -> list[jax.Array]:
    """What `observe` finds in a forward pass, values with `rank` axes, in the order of the layers."""
    order: list[tuple[str, ...]] = []

    def intercept(method: Callable, args: tuple, kwargs: dict[str, Any], context: Any) -> Any:
        result = method(*args, **kwargs)
        value = observe(context.module, context.method_name, args, result)
        if value is not None:
            order.extend([context.module.path] * (context.module.path not in order))
            context.module.sow(COLLECTION, NAME, value)
        return result

    def forward(params: Params, batch: Mapping[str, Any]) -> Any:
        with nn.intercept_methods(intercept):
            return model.apply({"params": params}, batch, mutable=[COLLECTION])[1]

    sown = jax.jit(forward)(params, batch)
    values = []
    for path in order:
        found = sown[COLLECTION]
        for name in (*path, NAME):
            found = found[name]
        values += found
    scanned = [
        value for value in values if value.ndim == rank + 1
    ]  # [N, ...]: the repetitions of a stack, before its tail
    repeats = len(scanned[0]) if scanned else 0
    return [value[i] for i in range(repeats) for value in scanned] + [value for value in values if value.ndim == rank]

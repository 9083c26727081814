"""Floating-point operations of a model, counted from its parameters, and the speed a device could reach.

Model FLOPs count what the mathematics needs, not what an implementation does: 2 per weight and token in the forward
pass, 6 with the backward pass, for every weight that multiplies an activation (experts: those chosen), plus attention's
4 H K M per query and layer (half of it in causal self-attention); rematerialisation does not count (PaLM, appendix B).
"""

import dataclasses
import math
import time

import jax
import jax.numpy as jnp
from flax import linen as nn

FORMULA = "6 FLOPs per active weight and token + 12 H K M per layer and query (causal: half)"

# Dense bf16 FLOP/s by device kind, from the vendors' data sheets.
PEAK = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5p": 459e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA B200": 2250e12,
}


@dataclasses.dataclass(frozen=True)
class Flops:
    """Forward FLOPs of one batch row: of the weights and of attention; training takes three times as much."""

    weights: float
    attention: float

    @property
    def train(self) -> float:
        return 3.0 * (self.weights + self.attention)


def per_row(model: nn.Module, boxed_params, lengths: dict[str, int]) -> Flops:
    """FLOPs of one row with `lengths` {"encoder": L, "decoder": L} of a model whose boxed parameters these are."""
    active = active_experts(model)
    decoder_only, encoder_only = "encoder" not in lengths, "decoder" not in lengths
    weights = attention = 0.0
    paths = [
        ("/".join(str(key.key) for key in path), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(boxed_params, is_leaf=lambda x: hasattr(x, "names"))
    ]
    tied = not any(path.startswith("head") and leaf.names == ("vocab", "embed") for path, leaf in paths)
    for path, leaf in paths:
        in_encoder = encoder_only or (not decoder_only and path.startswith("encoder"))
        own = lengths["encoder" if in_encoder else "decoder"]
        crossing = "/cross/" in path
        size, names = math.prod(leaf.value.shape), leaf.names
        if path.startswith(("embed/", "token_types/")):
            weights += 2.0 * size * own if tied and path.startswith("embed/") else 0.0
        elif "position" in names or "relpos" in names:
            continue
        else:
            reads_memory = crossing and path.endswith(("key/kernel", "value/kernel"))
            tokens = lengths["encoder"] if reads_memory else own
            share = active / leaf.value.shape[names.index("expert")] if "expert" in names else 1.0
            weights += 2.0 * size * share * tokens
        if path.endswith("query/kernel"):
            width = leaf.value.shape[names.index("embed")]
            keys = lengths["encoder"] if crossing else own
            half = 1.0 if crossing or in_encoder else 0.5
            attention += 4.0 * (size / width) * own * keys * half
    return Flops(weights, attention)


def active_experts(model: nn.Module) -> int:
    """Experts per token: the `top_k` of the first router in the tree of modules; 1 without one."""
    if hasattr(model, "top_k"):
        return model.top_k
    children = [getattr(model, field.name) for field in dataclasses.fields(model) if field.name != "parent"]
    children = [x for child in children for x in (child if isinstance(child, list | tuple) else [child])]
    found = [active_experts(child) for child in children if isinstance(child, nn.Module)]
    return max(found, default=1)


def peak_per_device(device=None) -> tuple[float, str]:
    """(FLOP/s a device could reach, where the figure comes from); a CPU's is measured, shared by its simulated devices."""
    device = device or jax.devices()[0]
    for kind, peak in PEAK.items():
        if device.device_kind.startswith(kind):
            return peak, f"{kind} data sheet, dense bf16"
    rate = measured_matmul()
    return rate / jax.local_device_count(), f"measured float32 matmul, {rate / 1e9:.0f} GFLOP/s on this host"


def measured_matmul(size: int = 1024, repeats: int = 5) -> float:
    """FLOP/s of the best of a few size^3 float32 products."""
    a = jnp.ones((size, size), jnp.float32)
    product = jax.jit(jnp.dot)
    product(a, a).block_until_ready()
    best = math.inf
    for _ in range(repeats):
        start = time.perf_counter()
        product(a, a).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return 2.0 * size**3 / best

"""Floating-point operations of a model, counted from its parameters, and the peak speed of a device.

Model FLOPs count what the mathematics needs, not what an implementation does: 2 per weight and token in the forward
pass, 6 with the backward pass, for every weight that multiplies an activation (experts: those chosen), plus attention's
4 H K M per query and layer (half of it in causal self-attention; M is the window if there is one). Rematerialisation is not
counted (PaLM, appendix B), nor are operations between tokens in mixers other than attention.
"""

import dataclasses
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from t5x_like.models import heads, masks
from t5x_like.models.stack import Stack
from t5x_like.types import Model, Params

ONCE_PER_ROW = ("pooler", "classifier")  # parts of a model that read one token of a row

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
class Weight:
    """A parameter, the innermost module that holds it, and how much of it one token uses.

    `uses` is how often it is applied to one token (the repeats of a stack of shared blocks), `share` the fraction of it that
    one token uses (experts: top_k of them).
    """

    path: str
    shape: tuple[int, ...]
    names: tuple[str | None, ...]
    module: nn.Module
    uses: int
    share: float

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def part(self) -> str:
        """The field of the model it belongs to: embed, encoder, decoder, head, ..."""
        return self.path.partition("/")[0]

    @property
    def is_lookup(self) -> bool:
        """Whether it is a table whose rows are looked up by index: token ids, token types, positions, distance buckets."""
        embedding = "vocab" in self.names and self.part != "head"
        return embedding or bool({"position", "relpos"} & set(self.names))

    @property
    def per_channel(self) -> float:
        """The outputs per token of a projection from the model's width, over all its layers and uses."""
        return self.size / self.shape[self.names.index("embed")] * self.uses


@dataclasses.dataclass(frozen=True)
class Flops:
    """Forward FLOPs of one batch row: of the weights and of attention. Training takes three times as many."""

    weights: float
    attention: float

    @property
    def forward(self) -> float:
        """FLOPs of the forward pass."""
        return self.weights + self.attention

    @property
    def train(self) -> float:
        """FLOPs of the forward and backward pass."""
        return 3.0 * self.forward


@dataclasses.dataclass(frozen=True)
class Cache:
    """The number of elements of cached keys and values: stored per token and per sequence, and read for one new token."""

    per_token: float
    per_sequence: float
    read: float


def list_weights(model: Model, boxed_params: Params) -> list[Weight]:
    """Returns every parameter of `model`, given its tree of parameters boxed with logical axis names."""
    leaves = jax.tree_util.tree_leaves_with_path(boxed_params, is_leaf=lambda x: hasattr(x, "names"))
    return [find_weight(model, [str(key.key) for key in path], leaf) for path, leaf in leaves]


def count_parameters(model: Model, boxed_params: Params) -> dict[str, Any]:
    """Counts parameters: total, active per token, embeddings (tables that are looked up), and by part of the model."""
    weights = list_weights(model, boxed_params)
    embedding = sum(weight.size for weight in weights if weight.is_lookup)
    total = sum(weight.size for weight in weights)
    parts: dict[str, int] = {}
    for weight in weights:
        parts[weight.part] = parts.get(weight.part, 0) + weight.size
    return {
        "total": total,
        "active_per_token": round(sum(weight.size * weight.share for weight in weights)),
        "embedding": embedding,
        "non_embedding": total - embedding,
        "head_is_tied": reads_table(getattr(model, "head", None)),
        "parts": parts,
    }


def find_weight(model: Model, path: list[str], leaf: Any) -> Weight:
    """Returns the parameter at `path` by walking the tree of modules; `leaf` is boxed."""
    module: Any = model
    uses, share, shape = 1, 1.0, tuple(leaf.value.shape)
    for part in path:
        child = find_child(module, part)
        if isinstance(module, Stack) and child is module.block and module.shared:
            uses *= module.repeats
        module = child
    if "expert" in leaf.names:
        share = min(1.0, experts_per_token(module) / shape[leaf.names.index("expert")])
    return Weight("/".join(path), shape, tuple(leaf.names), module, uses, share)


def experts_per_token(module: nn.Module) -> float:
    """Returns the number of experts applied to a token: `top_k` of the router, or the mean, `factor`, in expert choice."""
    router = getattr(module, "router", None)
    return getattr(router, "top_k", getattr(router, "factor", 1))


def find_child(module: nn.Module, part: str) -> nn.Module:
    """Returns the submodule that one part of a parameter's path names; `module` itself for one it creates in its methods."""
    if isinstance(submodule := getattr(module, part, None), nn.Module):
        return submodule
    field, _, index = part.rpartition("_")
    items = getattr(module, field, None) if index.isdigit() else None
    if isinstance(items, list | tuple) and int(index) < len(items):
        return items[int(index)]
    return module.block if isinstance(module, Stack) else module


def per_row(model: Model, boxed_params: Params, lengths: Mapping[str, int]) -> Flops:
    """Returns the FLOPs of one row with `lengths` {"encoder": L, "decoder": L}."""
    weights = list_weights(model, boxed_params)
    attention = sum(
        flops_per_pair(query, weights) * count_pairs(query, lengths) for query in query_projections(weights)
    )
    return Flops(product_flops(model, weights, lengths), attention)


def per_decoded_token(model: Model, boxed_params: Params, context: int, memory: int = 0) -> Flops:
    """Returns the forward FLOPs of one new token that attends to `context` tokens, with itself, and `memory` encoder tokens."""
    weights = [weight for weight in list_weights(model, boxed_params) if weight.part != "encoder"]
    queries = query_projections(weights)
    attention = sum(flops_per_pair(query, weights) * count_keys(query, context, memory) for query in queries)
    return Flops(product_flops(model, weights, {"encoder": 0, "decoder": 1}), attention)


def cache_size(model: Model, boxed_params: Params, context: int, memory: int = 0) -> Cache:
    """Returns the size of the cache for `context` tokens and `memory` encoder tokens; windowed layers cache every token too."""
    weights = [weight for weight in list_weights(model, boxed_params) if weight.part != "encoder"]
    cached = [weight for weight in weights if weight.path.endswith(("key/kernel", "value/kernel"))]
    self_attention = sum(weight.per_channel for weight in cached if not in_cross_attention(weight))
    cross_attention = sum(weight.per_channel for weight in cached if in_cross_attention(weight))
    read = sum(weight.per_channel * count_keys(weight, context, memory) for weight in cached)
    return Cache(self_attention, self_attention * context + cross_attention * memory, read)


def product_flops(model: Model, weights: list[Weight], lengths: Mapping[str, int]) -> float:
    """Returns the FLOPs of the weights that multiply activations, for one row."""
    tied = reads_table(getattr(model, "head", None))
    return sum(
        2.0 * weight.size * weight.share * weight.uses * count_tokens(weight, lengths, tied) for weight in weights
    )


def reads_table(head: Any) -> bool:
    """Whether a head multiplies by the embedding table, or wraps a head that does."""
    return isinstance(head, nn.Module) and any(
        isinstance(module, heads.Tied | heads.MaskedLM) for module in submodules(head)
    )


def submodules(module: nn.Module) -> Iterator[nn.Module]:
    """Yields a module and, recursively, the modules in its fields."""
    yield module
    for field in dataclasses.fields(module):
        value = None if field.name == "parent" else getattr(module, field.name)
        for item in value if isinstance(value, list | tuple) else [value]:
            if isinstance(item, nn.Module):
                yield from submodules(item)


def count_tokens(weight: Weight, lengths: Mapping[str, int], tied: bool) -> int:
    """Counts the tokens of a row that are multiplied by a weight."""
    if weight.is_lookup:
        return lengths[side_of(weight, lengths)] if tied and weight.part == "embed" else 0
    if weight.part == "embed":  # a projection of the vectors looked up
        return sum(lengths.values())
    if weight.part in ONCE_PER_ROW:
        return 1
    if "/relative/" in weight.path:  # encodes distances, once per batch
        return 0
    reads_memory = in_cross_attention(weight) and weight.path.endswith(("key/kernel", "value/kernel"))
    return lengths["encoder" if reads_memory else side_of(weight, lengths)]


def side_of(weight: Weight, lengths: Mapping[str, int]) -> str:
    """Returns whose tokens the weight is applied to: "encoder" or "decoder"."""
    return "encoder" if weight.part == "encoder" or "decoder" not in lengths else "decoder"


def in_cross_attention(weight: Weight) -> bool:
    """Whether the weight belongs to cross-attention."""
    return "/cross/" in weight.path


def query_projections(weights: list[Weight]) -> list[Weight]:
    """Returns the query projections, one per attention module (all layers of a scanned stack are one)."""
    return [weight for weight in weights if weight.path.endswith("query/kernel")]


def flops_per_pair(query: Weight, weights: list[Weight]) -> float:
    """Returns FLOPs per pair of query and key: 2 H K for the scores, as many for the values and for scores of distances."""
    relative = query.path.removesuffix("query/kernel") + "relative/"
    return (6.0 if any(weight.path.startswith(relative) for weight in weights) else 4.0) * query.per_channel


def count_pairs(query: Weight, lengths: Mapping[str, int]) -> float:
    """Counts the pairs of a query and a key it may see in one row; causal attention counts half of L^2, a window fewer."""
    length = lengths[side_of(query, lengths)]
    if in_cross_attention(query):
        return float(length * lengths["encoder"])
    mask = getattr(query.module, "mask", None)
    size = getattr(mask, "size", None)
    bidirectional = size is None and (mask is masks.full or side_of(query, lengths) == "encoder")
    pairs = length * length * (1.0 if bidirectional else 0.5)
    return pairs if size is None or size >= length else min(pairs, size * length - size * (size - 1) / 2)


def count_keys(weight: Weight, context: int, memory: int) -> int:
    """Counts the keys that one new token sees."""
    if in_cross_attention(weight):
        return memory
    size = getattr(getattr(weight.module, "mask", None), "size", None)
    return context if size is None else min(size, context)


def peak_per_device(device: jax.Device | None = None) -> tuple[float, str]:
    """Returns (peak FLOP/s of a device, source of the figure); a CPU's is measured and divided by its simulated devices."""
    device = device or jax.devices()[0]
    for kind, peak in PEAK.items():
        if device.device_kind.startswith(kind):
            return peak, f"{kind} data sheet, dense bf16"
    rate = measure_matmul()
    return rate / jax.local_device_count(), f"measured float32 matmul, {rate / 1e9:.0f} GFLOP/s on this host"


def measure_matmul(size: int = 1024, repeats: int = 5) -> float:
    """Measures FLOP/s of a size^3 float32 product, the best of `repeats`."""
    a = jax.device_put(np.ones((size, size), np.float32))
    product = jax.jit(jnp.dot)
    product(a, a).block_until_ready()
    best = math.inf
    for _ in range(repeats):
        start = time.perf_counter()
        product(a, a).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return 2.0 * size**3 / best

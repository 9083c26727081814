"""Floating-point operations of a model, counted from its parameters, and the speed a device could reach.

Model FLOPs count what the mathematics needs, not what an implementation does: 2 per weight and token in the forward
pass, 6 with the backward pass, for every weight that multiplies an activation (experts: those chosen), plus attention's
4 H K M per query and layer (half of it in causal self-attention, M the window where there is one); rematerialisation
does not count (PaLM, appendix B). What mixers other than attention do between tokens is not counted.
"""

import dataclasses
import math
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from t5x_like.models import heads, masks
from t5x_like.models.stack import Stack

ONCE_A_ROW = ("pooler", "classifier")  # parts of a model that read one token of a row

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
    """A parameter, the innermost module of the model's tree that holds it, and how a token meets it.

    `uses` is how often one token passes it (the repeats of a stack of shared blocks), `share` how much of it one token
    reads (experts: top_k of them).
    """

    path: str
    shape: tuple[int, ...]
    names: tuple[str | None, ...]
    module: nn.Module
    uses: int
    share: float

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def part(self) -> str:
        """The field of the model it belongs to: embed, encoder, decoder, head, ..."""
        return self.path.partition("/")[0]

    @property
    def lookup(self) -> bool:
        """Whether it is a table whose rows are read by index: words, token types, positions, distance buckets."""
        own_table = "vocab" in self.names and self.part != "head"
        return own_table or bool({"position", "relpos"} & set(self.names))

    @property
    def per_channel(self) -> float:
        """Numbers that a projection from the model's width makes of a token, in all its layers and uses together."""
        return self.size / self.shape[self.names.index("embed")] * self.uses


@dataclasses.dataclass(frozen=True)
class Flops:
    """Forward FLOPs of one batch row: of the weights and of attention; training takes three times as much."""

    weights: float
    attention: float

    @property
    def forward(self) -> float:
        return self.weights + self.attention

    @property
    def train(self) -> float:
        return 3.0 * self.forward


@dataclasses.dataclass(frozen=True)
class Cache:
    """Keys and values in decoding, counted in numbers: kept of a new token and of a sequence, and read for a new token."""

    per_token: float
    per_sequence: float
    read: float


def weights(model: nn.Module, boxed_params) -> list[Weight]:
    """Every parameter of `model`, given its tree of parameters boxed with logical axis names."""
    leaves = jax.tree_util.tree_leaves_with_path(boxed_params, is_leaf=lambda x: hasattr(x, "names"))
    return [weight(model, [str(key.key) for key in path], leaf) for path, leaf in leaves]


def parameters(model: nn.Module, boxed_params) -> dict[str, Any]:
    """Counts: all, those a token meets, those looked up, and those of every part."""
    every = weights(model, boxed_params)
    embedding = sum(weight.size for weight in every if weight.lookup)
    total, parts = sum(weight.size for weight in every), {}
    for weight in every:
        parts[weight.part] = parts.get(weight.part, 0) + weight.size
    return {
        "total": total,
        "active_per_token": round(sum(weight.size * weight.share for weight in every)),
        "embedding": embedding,
        "non_embedding": total - embedding,
        "head_is_tied": reads_table(getattr(model, "head", None)),
        "parts": parts,
    }


def weight(model: nn.Module, path: list[str], leaf) -> Weight:
    """The parameter at `path`, found by walking the tree of modules: the one place that knows of repeats and experts."""
    module, uses, share, shape = model, 1, 1.0, tuple(leaf.value.shape)
    for part in path:
        below = child(module, part)
        if isinstance(module, Stack) and below is module.block and module.shared:
            uses *= module.repeats
        module = below
    if "expert" in leaf.names:
        share = min(1.0, experts_per_token(module) / shape[leaf.names.index("expert")])
    return Weight("/".join(path), shape, tuple(leaf.names), module, uses, share)


def experts_per_token(module: nn.Module) -> float:
    """How many experts of a mixture work on a token: `top_k` of its router, or the mean that `factor` gives (expert choice)."""
    router = getattr(module, "router", None)
    return getattr(router, "top_k", getattr(router, "factor", 1))


def child(module: nn.Module, part: str) -> nn.Module:
    """The module of the tree that a part of a parameter's path names; the same one for what it makes itself."""
    if isinstance(found := getattr(module, part, None), nn.Module):
        return found
    field, _, index = part.rpartition("_")
    several = getattr(module, field, None) if index.isdigit() else None
    if isinstance(several, list | tuple) and int(index) < len(several):
        return several[int(index)]
    return module.block if isinstance(module, Stack) else module


def per_row(model: nn.Module, boxed_params, lengths: dict[str, int]) -> Flops:
    """FLOPs of one row with `lengths` {"encoder": L, "decoder": L} of a model whose boxed parameters these are."""
    every = weights(model, boxed_params)
    attention = sum(scores(query, every) * pairs(query, lengths) for query in queries(every))
    return Flops(products(model, every, lengths), attention)


def per_decoded_token(model: nn.Module, boxed_params, context: int, memory: int = 0) -> Flops:
    """Forward FLOPs of one new token that sees `context` slots, itself among them, and `memory` encoder positions."""
    every = [weight for weight in weights(model, boxed_params) if weight.part != "encoder"]
    attention = sum(scores(query, every) * keys(query, context, memory) for query in queries(every))
    return Flops(products(model, every, {"encoder": 0, "decoder": 1}), attention)


def cache(model: nn.Module, boxed_params, context: int, memory: int = 0) -> Cache:
    """Keys and values for a sequence of `context` slots and `memory` encoder positions; a window still keeps every slot."""
    every = [weight for weight in weights(model, boxed_params) if weight.part != "encoder"]
    kept = [weight for weight in every if weight.path.endswith(("key/kernel", "value/kernel"))]
    own = sum(weight.per_channel for weight in kept if not crosses(weight))
    crossing = sum(weight.per_channel for weight in kept if crosses(weight))
    read = sum(weight.per_channel * keys(weight, context, memory) for weight in kept)
    return Cache(own, own * context + crossing * memory, read)


def products(model: nn.Module, every: list[Weight], lengths: dict[str, int]) -> float:
    """FLOPs of the weights that multiply activations, for one row."""
    tied = reads_table(getattr(model, "head", None))
    return sum(2.0 * weight.size * weight.share * weight.uses * tokens(weight, lengths, tied) for weight in every)


def reads_table(head) -> bool:
    """Whether a head multiplies with the embedding's table, or wraps one that does."""
    return isinstance(head, nn.Module) and any(isinstance(below, heads.Tied | heads.MaskedLM) for below in tree(head))


def tree(module: nn.Module) -> Iterator[nn.Module]:
    """A module and, by their fields, all modules below it."""
    yield module
    for field in dataclasses.fields(module):
        value = None if field.name == "parent" else getattr(module, field.name)
        for below in value if isinstance(value, list | tuple) else [value]:
            if isinstance(below, nn.Module):
                yield from tree(below)


def tokens(weight: Weight, lengths: dict[str, int], tied: bool) -> int:
    """How many tokens of a row a weight is multiplied with."""
    if weight.lookup:
        return lengths[side(weight, lengths)] if tied and weight.part == "embed" else 0
    if weight.part == "embed":  # a projection of what was looked up
        return sum(lengths.values())
    if weight.part in ONCE_A_ROW:
        return 1
    if "/relative/" in weight.path:  # encodes distances, once for the whole batch
        return 0
    reads_memory = crosses(weight) and weight.path.endswith(("key/kernel", "value/kernel"))
    return lengths["encoder" if reads_memory else side(weight, lengths)]


def side(weight: Weight, lengths: dict[str, int]) -> str:
    """Whose tokens pass through: the encoder's or the decoder's."""
    return "encoder" if weight.part == "encoder" or "decoder" not in lengths else "decoder"


def crosses(weight: Weight) -> bool:
    """Whether it belongs to cross-attention."""
    return "/cross/" in weight.path


def queries(every: list[Weight]) -> list[Weight]:
    """The query projections, one for every attention of the tree (all layers of a scanned stack are one)."""
    return [weight for weight in every if weight.path.endswith("query/kernel")]


def scores(query: Weight, every: list[Weight]) -> float:
    """FLOPs per pair of query and key: 2 H K for the scores, as much for the values and for scores of distances."""
    relative = query.path.removesuffix("query/kernel") + "relative/"
    return (6.0 if any(weight.path.startswith(relative) for weight in every) else 4.0) * query.per_channel


def pairs(query: Weight, lengths: dict[str, int]) -> float:
    """Pairs of a query and a key it may see, in one row; causal counts half of L^2, a window what it lets through."""
    own = lengths[side(query, lengths)]
    if crosses(query):
        return float(own * lengths["encoder"])
    mask = getattr(query.module, "mask", None)
    size = getattr(mask, "size", None)
    everywhere = size is None and (mask is masks.full or side(query, lengths) == "encoder")
    whole = own * own * (1.0 if everywhere else 0.5)
    return whole if size is None or size >= own else min(whole, size * own - size * (size - 1) / 2)


def keys(weight: Weight, context: int, memory: int) -> int:
    """How many keys one new token sees."""
    if crosses(weight):
        return memory
    size = getattr(getattr(weight.module, "mask", None), "size", None)
    return context if size is None else min(size, context)


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

"""T5 1.0 and 1.1 (and mT5, ByT5, UL2, which come as them), umT5 and Switch."""

from collections.abc import Callable

from flax import linen as nn

from t5x_like.hf import ops
from t5x_like.hf.family import Family
from t5x_like.hf.fields import ACTIVATIONS, Fields, activation_name
from t5x_like.hf.gpt import named
from t5x_like.hf.modules import Describe, kind, stacked, unstacked
from t5x_like.hf.table import Rules, Table, norm, weights
from t5x_like.models import architectures, attention, blocks, heads, linear, masks, mlp, moe, norms, positions, routers


def build(
    f: Fields,
    own_bias: bool = False,
    tied: bool = True,
    mlp_of: Callable[[str, int], nn.Module] | None = None,
) -> architectures.EncoderDecoder:
    """An encoder-decoder of T5's kind; `own_bias` gives every layer a relative bias of its own (umT5)."""
    width, num_heads, head_dim = f("d_model"), f("num_heads"), f("d_kv")
    f.unused("dense_act_fn", "is_gated_act", "n_positions", "feed_forward_proj")
    f.only("is_decoder", False)
    f.only("scalable_attention", True)

    def scaled() -> norms.RMSNorm:
        return norms.RMSNorm(f("layer_norm_epsilon", 1e-6))

    def bias(side: str) -> positions.RelativeBias:
        buckets, furthest = f("relative_attention_num_buckets", 32), f("relative_attention_max_distance", 128)
        return positions.RelativeBias(num_heads, side == "encoder", buckets, furthest)

    def layer(side: str, i: int) -> nn.Module:
        mask = masks.full if side == "encoder" else masks.causal
        block = blocks.Block(
            mixer=attention.SelfAttention(num_heads, head_dim, scale=1.0, mask=mask),
            cross=attention.CrossAttention(num_heads, head_dim, scale=1.0) if side == "decoder" else None,
            mlp=dense(f) if mlp_of is None else mlp_of(side, i),
            norm=scaled(),
        )
        return blocks.Positioned(bias(side), block) if own_bias else block

    def tower(side: str, count: int) -> nn.Module:
        layers = [layer(side, i) for i in range(count)]
        return stacked(layers, position=None if own_bias else bias(side), norm=scaled())

    encoder_layers = f("num_layers")
    return architectures.EncoderDecoder(
        linear.Embed(f("vocab_size"), width),
        tower("encoder", encoder_layers),
        tower("decoder", f("num_decoder_layers", encoder_layers)),
        head(f, tied),
    )


def head(f: Fields, tied: bool) -> nn.Module:
    """A tied head divides by sqrt(d_model); transformers 5 says so in a field of its own, and ties unless there is a table."""
    tied = f("tie_word_embeddings", tied)
    scaled = tied
    if "scale_decoder_outputs" in f.values:
        tied, scaled = tied and not f.holds("lm_head."), f("scale_decoder_outputs", False)
    if scaled and not tied:
        raise ValueError(f"{f.where}: scale_decoder_outputs=true with an untied head is not supported")
    return heads.Tied(scale=None if scaled else 1.0) if tied else heads.Untied()


def dense(f: Fields) -> mlp.Mlp:
    """The MLP that feed_forward_proj names: "relu", or "gated-gelu", whose gelu is the tanh one."""
    name = f("feed_forward_proj", "relu")
    gated, activation = name.startswith("gated-"), name.removeprefix("gated-")
    if name == "gated-gelu":
        activation = "gelu_new"
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"{f.where}: feed_forward_proj={name!r} is not supported; supported are {', '.join(ACTIVATIONS)}"
        )
    f.only("dense_act_fn", activation)
    f.only("is_gated_act", gated)
    return mlp.Mlp(f("d_ff"), ACTIVATIONS[activation], gated=gated)


def build_switch(f: Fields) -> architectures.EncoderDecoder:
    """Switch: a mixture of experts in every sparse_step-th layer, one expert a token, `expert_capacity` tokens an expert."""
    f.only("router_bias", False)
    f.unused("router_dtype", "router_ignore_padding_tokens", "add_router_probs")
    f.unused("num_sparse_encoder_layers", "num_sparse_decoder_layers", "router_type", "batch_prioritized_routing")
    dispatch = moe.Capacity(tokens=f("expert_capacity", 64))
    steps = {side: f(f"{side}_sparse_step", sparse_step(f, side)) for side in ("encoder", "decoder")}

    def layer(side: str, i: int) -> nn.Module:
        if not steps[side] or i % steps[side] != (1 if steps[side] > 1 else 0):
            return mlp.Mlp(f("d_ff"), f.activation("dense_act_fn", "relu"))
        router = routers.TopK(f("num_experts"), 1, normalize=False)
        return moe.Moe(router, f("d_ff"), f.activation("dense_act_fn", "relu"), dispatch=dispatch)

    return build(f, mlp_of=layer)


def sparse_step(f: Fields, side: str) -> int:
    """How often a layer is sparse, from the number of those that are."""
    sparse = f(f"num_sparse_{side}_layers", 3)
    layers = f("num_layers") if side == "encoder" else f("num_decoder_layers", f("num_layers"))
    return layers // sparse if sparse else 0


def inner(layer: nn.Module) -> nn.Module:
    return layer.block if kind(layer) == "Positioned" else layer


def block(model: nn.Module) -> nn.Module:
    return inner(unstacked(model.encoder)[0])


def bias_of(model: nn.Module) -> nn.Module:
    own = unstacked(model.encoder)[0]
    return own.position if kind(own) == "Positioned" else model.encoder.position


def projection(model: nn.Module) -> str:
    layer = block(model).mlp
    name = activation_name(layer.activation)
    if layer.gated:
        return "gated-gelu" if name == "gelu_new" else f"gated-{name}"
    return name


def sparse_layers(model: nn.Module, side: str) -> int:
    return sum(kind(layer.mlp) == "Moe" for layer in unstacked(getattr(model, side)))


def step(side: str) -> Callable[[nn.Module], int]:
    def found(model: nn.Module) -> int:
        sparse = sparse_layers(model, side)
        return len(unstacked(getattr(model, side))) // sparse if sparse else 0

    return found


def first_sparse(model: nn.Module) -> nn.Module:
    sparse = [x.mlp for side in (model.encoder, model.decoder) for x in unstacked(side) if kind(x.mlp) == "Moe"]
    return sparse[0]


SHAPE: Describe = {
    "vocab_size": "embed.vocab_size",
    "d_model": "embed.width",
    "num_layers": lambda model: len(unstacked(model.encoder)),
    "num_decoder_layers": lambda model: len(unstacked(model.decoder)),
    "num_heads": lambda model: block(model).mixer.num_heads,
    "d_kv": lambda model: block(model).mixer.head_dim,
    "d_ff": lambda model: block(model).mlp.hidden_dim,
    "layer_norm_epsilon": "encoder.norm.epsilon",
    "relative_attention_num_buckets": lambda model: bias_of(model).num_buckets,
    "relative_attention_max_distance": lambda model: bias_of(model).max_distance,
    "tie_word_embeddings": lambda model: kind(model.head) == "Tied",
    "is_encoder_decoder": lambda model: True,
    "decoder_start_token_id": lambda model: 0,
}
SWITCH: Describe = {
    "num_experts": lambda model: first_sparse(model).router.num_experts,
    "dense_act_fn": lambda model: activation_name(first_sparse(model).activation),
    # A capacity that grows with the length cannot be said there: the family's own number is.
    "expert_capacity": lambda model: getattr(first_sparse(model).dispatch, "tokens", None) or 64,
    **{f"{side}_sparse_step": step(side) for side in ("encoder", "decoder")},
    "num_sparse_encoder_layers": lambda model: sparse_layers(model, "encoder"),
    "num_sparse_decoder_layers": lambda model: sparse_layers(model, "decoder"),
}


def attending(theirs: str, ours: str) -> Rules:
    """The four matrices of an attention."""
    return {
        **weights(f"{theirs}.q", f"{ours}.query"),
        **weights(f"{theirs}.k", f"{ours}.key"),
        **weights(f"{theirs}.v", f"{ours}.value"),
        **weights(f"{theirs}.o", f"{ours}.out", ops.linear(2)),
    }


def feeding(theirs: str, ours: str, name: str) -> Rules:
    """An MLP, plain or gated, or the experts in its place."""
    expert = f"{theirs}.mlp.experts.expert_{{e}}"
    return {
        **weights(f"{theirs}.{name}.wi", f"{ours}.up"),
        **weights(f"{theirs}.{name}.wi_0", f"{ours}.gate"),
        **weights(f"{theirs}.{name}.wi_1", f"{ours}.up"),
        **weights(f"{theirs}.{name}.wo", f"{ours}.down"),
        f"{theirs}.mlp.router.classifier.weight": (f"{ours}.router.gate.kernel", ops.linear()),
        f"{expert}.wi.weight": (f"{ours}.up", ops.linear()),
        f"{expert}.wo.weight": (f"{ours}.down", ops.linear()),
    }


def rules(name: str) -> Rules:
    """The rules of both sides; `name` is what the MLP is called."""
    result: Rules = {
        "shared.weight": ("embed.table", ops.same),
        "lm_head.weight": ("head.table", ops.same),
        **norm("encoder.final_layer_norm", "encoder.norm"),
        **norm("decoder.final_layer_norm", "decoder.norm"),
    }
    for side, last in (("encoder", 1), ("decoder", 2)):
        layer, ours = f"{side}.block.{{}}.layer", f"{side}.{{}}"
        bias = "SelfAttention.relative_attention_bias.weight"
        result |= {
            **attending(f"{layer}.0.SelfAttention", f"{ours}.mixer"),
            **norm(f"{layer}.0.layer_norm", f"{ours}.mixer_norm"),
            **feeding(f"{layer}.{last}", f"{ours}.mlp", name),
            **norm(f"{layer}.{last}.layer_norm", f"{ours}.mlp_norm"),
            f"{side}.block.0.layer.0.{bias}": (f"{side}.position.table", ops.flipped),
            f"{layer}.0.{bias}": (f"{side}.{{position}}.table", ops.flipped),
        }
    result |= attending("decoder.block.{}.layer.1.EncDecAttention", "decoder.{}.cross")
    return result | norm("decoder.block.{}.layer.1.layer_norm", "decoder.{}.cross_norm")


COPIES = {r"(encoder|decoder)\.embed_tokens\.weight": "shared.weight", r"lm_head\.weight": "shared.weight"}

# T5 1.0 was published with a relative bias for its cross-attention, which has none.
UNUSED = r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight"


def table(name: str) -> Callable[[nn.Module], Table]:
    plain = rules(name)

    def of(model: nn.Module) -> Table:
        gated = getattr(block(model).mlp, "gated", False)
        unwanted = ".wi." if gated else ".wi_"
        experts = {n: r for n, r in plain.items() if "expert" in n}
        kept = {n: r for n, r in plain.items() if unwanted not in n} | (experts if not gated else {})
        return Table(kept, COPIES, UNUSED)

    return of


DENSE: Describe = SHAPE | {"feed_forward_proj": projection}
T5 = DENSE | named("T5ForConditionalGeneration")

FAMILIES = (
    Family("t5", build, T5, table("DenseReluDense")),
    Family(
        "mt5", lambda f: build(f, tied=False), DENSE | named("MT5ForConditionalGeneration"), table("DenseReluDense")
    ),
    Family(
        "umt5",
        lambda f: build(f, own_bias=True, tied=False),
        DENSE | named("UMT5ForConditionalGeneration"),
        table("DenseReluDense"),
    ),
    Family(
        "switch_transformers",
        build_switch,
        SHAPE | SWITCH | named("SwitchTransformersForConditionalGeneration"),
        table("mlp"),
    ),
)

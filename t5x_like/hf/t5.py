"""T5 1.0 and 1.1 (and mT5, ByT5, UL2, which use the same configuration), umT5 and Switch."""

from collections.abc import Callable
from typing import Any

from flax import linen as nn

from t5x_like.hf import ops
from t5x_like.hf.dropout import Rates
from t5x_like.hf.family import Family
from t5x_like.hf.fields import ACTIVATIONS, Fields, activation_name
from t5x_like.hf.gpt import architecture_field
from t5x_like.hf.modules import OMIT, Description, class_name, stack_layers, unstack_layers
from t5x_like.hf.table import Rules, Table, linear_rules, norm_rules
from t5x_like.models import architectures, attention, blocks, heads, linear, masks, mlp, moe, norms, positions, routers


def build(
    f: Fields,
    own_bias: bool = False,
    tied: bool = True,
    mlp_of: Callable[[str, int], nn.Module] | None = None,
) -> architectures.EncoderDecoder:
    """Builds a T5. `own_bias` gives every layer its own relative bias (umT5); `mlp_of(side, layer)` builds the MLPs."""
    width, num_heads, head_dim = f("d_model"), f("num_heads"), f("d_kv")
    f.ignore("dense_act_fn", "is_gated_act", "n_positions", "feed_forward_proj")
    f.expect("is_decoder", False)
    f.expect("scalable_attention", True)

    def norm() -> norms.RMSNorm:
        return norms.RMSNorm(f.epsilon("layer_norm_epsilon", 1e-6))

    def bias(side: str) -> positions.RelativeBias:
        buckets, max_distance = f("relative_attention_num_buckets", 32), f("relative_attention_max_distance", 128)
        return positions.RelativeBias(num_heads, side == "encoder", buckets, max_distance)

    def layer(side: str, i: int) -> nn.Module:
        mask = masks.full if side == "encoder" else masks.causal
        block = blocks.Block(
            mixer=attention.SelfAttention(num_heads, head_dim, scale=1.0, mask=mask),
            cross=attention.CrossAttention(num_heads, head_dim, scale=1.0) if side == "decoder" else None,
            mlp=build_mlp(f) if mlp_of is None else mlp_of(side, i),
            norm=norm(),
        )
        return blocks.Positioned(bias(side), block) if own_bias else block

    def tower(side: str, count: int) -> nn.Module:
        layers = [layer(side, i) for i in range(count)]
        return stack_layers(layers, position=None if own_bias else bias(side), norm=norm())

    encoder_layers = f.count("num_layers")
    return architectures.EncoderDecoder(
        linear.Embed(f("vocab_size"), width),
        tower("encoder", encoder_layers),
        tower("decoder", f.count("num_decoder_layers", encoder_layers)),
        build_head(f, tied),
    )


def build_head(f: Fields, tied: bool) -> nn.Module:
    """Builds the head: tied or not, and dividing by sqrt(d_model) or not; `tied` is the family's default.

    transformers 4 ties and divides by `tie_word_embeddings`. transformers 5 ties unless the file has another table, and
    divides by `scale_decoder_outputs` (t5), never (mt5), always (umt5), or by `tie_word_embeddings` (Switch). A file without
    a version has the fields of `head_fields`.
    """
    kind, version, own = f("model_type", like=""), f("transformers_version", ""), f.has_tensor("lm_head.")
    tied = f("tie_word_embeddings", tied)
    scaled = f("scale_decoder_outputs", tied)
    if f.is_newer():
        divides = {"t5": scaled, "mt5": False, "umt5": True}
        tied, scaled = (tied or kind in divides) and not own, divides.get(kind, tied)
    elif "scale_decoder_outputs" not in f.values or (version and not own):
        scaled = tied
    elif not (version or scaled or tied):
        tied = True  # the head is a copy
    else:
        tied = tied and not own
    scale = None if scaled else 1.0
    return heads.Tied(scale) if tied else heads.Untied(scale)


def is_copied(model: nn.Module) -> bool:
    """Whether the head is tied and does not divide. transformers 4 has no such head, so an export repeats the table."""
    return class_name(model.head) == "Tied" and model.head.scale is not None


def head_fields(divides_if_tied: bool = True) -> Description:
    """The fields of the head, which both versions of transformers read alike except for an untied head that divides."""

    def tie(model: nn.Module) -> bool:
        if class_name(model.head) == "Tied" and model.head.scale is None and not divides_if_tied:
            raise ValueError("the head is tied and divides by sqrt(d_model), as in t5; export as model_type t5")
        return class_name(model.head) == "Tied" and not is_copied(model)

    def scale(model: nn.Module) -> Any:
        divides = model.head.scale is None
        return divides if is_copied(model) or (divides and class_name(model.head) == "Untied") else OMIT

    return {"tie_word_embeddings": tie, "scale_decoder_outputs": scale}


def build_mlp(f: Fields) -> mlp.Mlp:
    """Builds the MLP of feed_forward_proj, for example "relu", or "gated-gelu" with the tanh approximation."""
    name = f("feed_forward_proj", "relu")
    gated, activation = name.startswith("gated-"), name.removeprefix("gated-")
    if name == "gated-gelu":
        activation = "gelu_new"
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"{f.where}: feed_forward_proj={name!r} is not supported; supported are {', '.join(ACTIVATIONS)}"
        )
    f.expect("dense_act_fn", activation)
    f.expect("is_gated_act", gated)
    return mlp.Mlp(f("d_ff"), ACTIVATIONS[activation], gated=gated)


def build_switch(f: Fields) -> architectures.EncoderDecoder:
    """Builds Switch: experts in every sparse_step-th layer, one expert per token, `expert_capacity` tokens per expert."""
    f.expect("router_bias", False)
    f.ignore("router_dtype", "router_ignore_padding_tokens", "add_router_probs")
    f.ignore("num_sparse_encoder_layers", "num_sparse_decoder_layers", "router_type", "batch_prioritized_routing")
    dispatch = moe.Capacity(tokens=f("expert_capacity", 64))
    steps = {side: f(f"{side}_sparse_step", default_sparse_step(f, side), low=0) for side in ("encoder", "decoder")}

    def layer(side: str, i: int) -> nn.Module:
        if not steps[side] or i % steps[side] != (1 if steps[side] > 1 else 0):
            return mlp.Mlp(f("d_ff"), f.activation("dense_act_fn", "relu"))
        router = routers.TopK(f.count("num_experts"), 1, normalize=False)
        return moe.Moe(router, f("d_ff"), f.activation("dense_act_fn", "relu"), dispatch=dispatch)

    return build(f, mlp_of=layer)


def default_sparse_step(f: Fields, side: str) -> int:
    """Returns the interval of sparse layers, from their number."""
    sparse = f(f"num_sparse_{side}_layers", 3, low=0)
    layers = f("num_layers") if side == "encoder" else f("num_decoder_layers", f("num_layers"))
    return layers // sparse if sparse else 0


def inner_block(layer: nn.Module) -> nn.Module:
    """The block of a layer, without its own position encoding."""
    return layer.block if class_name(layer) == "Positioned" else layer


def first_block(model: nn.Module) -> nn.Module:
    """The first block of the encoder."""
    return inner_block(unstack_layers(model.encoder)[0])


def relative_bias(model: nn.Module) -> nn.Module:
    """The relative bias of the encoder."""
    layer = unstack_layers(model.encoder)[0]
    return layer.position if class_name(layer) == "Positioned" else model.encoder.position


def feed_forward_name(model: nn.Module) -> str:
    """The field feed_forward_proj."""
    layer = first_block(model).mlp
    name = activation_name(layer.activation)
    if layer.gated:
        return "gated-gelu" if name == "gelu_new" else f"gated-{name}"
    return name


def count_sparse_layers(model: nn.Module, side: str) -> int:
    """The number of layers with experts on a side."""
    return sum(class_name(layer.mlp) == "Moe" for layer in unstack_layers(getattr(model, side)))


def sparse_step_field(side: str) -> Callable[[nn.Module], int]:
    """Returns a function that gives the field encoder_sparse_step or decoder_sparse_step."""

    def step(model: nn.Module) -> int:
        sparse = count_sparse_layers(model, side)
        return len(unstack_layers(getattr(model, side))) // sparse if sparse else 0

    return step


def first_moe(model: nn.Module) -> nn.Module:
    """The first mixture of experts."""
    sparse = [
        x.mlp for side in (model.encoder, model.decoder) for x in unstack_layers(side) if class_name(x.mlp) == "Moe"
    ]
    return sparse[0]


SHAPE: Description = {
    "vocab_size": "embed.vocab_size",
    "d_model": "embed.width",
    "num_layers": lambda model: len(unstack_layers(model.encoder)),
    "num_decoder_layers": lambda model: len(unstack_layers(model.decoder)),
    "num_heads": lambda model: first_block(model).mixer.num_heads,
    "d_kv": lambda model: first_block(model).mixer.head_dim,
    "d_ff": lambda model: first_block(model).mlp.hidden_dim,
    "layer_norm_epsilon": "encoder.norm.epsilon",
    "relative_attention_num_buckets": lambda model: relative_bias(model).num_buckets,
    "relative_attention_max_distance": lambda model: relative_bias(model).max_distance,
    **head_fields(),
    "is_encoder_decoder": lambda model: True,
    "decoder_start_token_id": lambda model: 0,
}
SWITCH: Description = {
    "num_experts": lambda model: first_moe(model).router.num_experts,
    "dense_act_fn": lambda model: activation_name(first_moe(model).activation),
    # config.json cannot express a capacity that grows with the length; the family's default replaces it.
    "expert_capacity": lambda model: getattr(first_moe(model).dispatch, "tokens", None) or 64,
    **{f"{side}_sparse_step": sparse_step_field(side) for side in ("encoder", "decoder")},
    "num_sparse_encoder_layers": lambda model: count_sparse_layers(model, "encoder"),
    "num_sparse_decoder_layers": lambda model: count_sparse_layers(model, "decoder"),
}


def attention_rules(tensor: str, param: str) -> Rules:
    """The rules of the four matrices of an attention."""
    return {
        **linear_rules(f"{tensor}.q", f"{param}.query"),
        **linear_rules(f"{tensor}.k", f"{param}.key"),
        **linear_rules(f"{tensor}.v", f"{param}.value"),
        **linear_rules(f"{tensor}.o", f"{param}.out", ops.linear(2)),
    }


def mlp_rules(tensor: str, param: str, name: str) -> Rules:
    """The rules of an MLP, plain or gated, or of experts in its place."""
    expert = f"{tensor}.mlp.experts.expert_{{e}}"
    return {
        **linear_rules(f"{tensor}.{name}.wi", f"{param}.up"),
        **linear_rules(f"{tensor}.{name}.wi_0", f"{param}.gate"),
        **linear_rules(f"{tensor}.{name}.wi_1", f"{param}.up"),
        **linear_rules(f"{tensor}.{name}.wo", f"{param}.down"),
        f"{tensor}.mlp.router.classifier.weight": (f"{param}.router.gate.kernel", ops.linear()),
        f"{expert}.wi.weight": (f"{param}.up", ops.linear()),
        f"{expert}.wo.weight": (f"{param}.down", ops.linear()),
    }


def make_rules(name: str) -> Rules:
    """The rules of both sides; `name` is the name of the MLP."""
    result: Rules = {
        "shared.weight": ("embed.table", ops.identity),
        "lm_head.weight": ("head.table", ops.identity),
        **norm_rules("encoder.final_layer_norm", "encoder.norm"),
        **norm_rules("decoder.final_layer_norm", "decoder.norm"),
    }
    for side, last in (("encoder", 1), ("decoder", 2)):
        layer, param = f"{side}.block.{{}}.layer", f"{side}.{{}}"
        bias = "SelfAttention.relative_attention_bias.weight"
        result |= {
            **attention_rules(f"{layer}.0.SelfAttention", f"{param}.mixer"),
            **norm_rules(f"{layer}.0.layer_norm", f"{param}.mixer_norm"),
            **mlp_rules(f"{layer}.{last}", f"{param}.mlp", name),
            **norm_rules(f"{layer}.{last}.layer_norm", f"{param}.mlp_norm"),
            f"{side}.block.0.layer.0.{bias}": (f"{side}.position.table", ops.transpose),
            f"{layer}.0.{bias}": (f"{side}.{{position}}.table", ops.transpose),
        }
    result |= attention_rules("decoder.block.{}.layer.1.EncDecAttention", "decoder.{}.cross")
    return result | norm_rules("decoder.block.{}.layer.1.layer_norm", "decoder.{}.cross_norm")


ALIASES = {r"(encoder|decoder)\.embed_tokens\.weight": "shared.weight", r"lm_head\.weight": "shared.weight"}

# T5 1.0 was published with a relative bias for its cross-attention, which does not use one.
IGNORED = r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight"


def make_table(name: str) -> Callable[[nn.Module], Table]:
    """Returns a function that gives the table of a model; `name` is the name of the MLP."""
    rules = make_rules(name)

    def table(model: nn.Module) -> Table:
        gated = getattr(first_block(model).mlp, "gated", False)
        other = ".wi." if gated else ".wi_"
        kept = {name: rule for name, rule in rules.items() if other not in name}
        copied = ["lm_head.weight"] if is_copied(model) else []
        if name == "mlp" and (copied or class_name(model.head) == "Untied"):  # Switch then ties no table
            copied += ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"]
        copies = dict.fromkeys(copied, "shared.weight")
        return Table(kept, ALIASES, IGNORED, copies=copies)

    return table


RATES = Rates("dropout_rate", "dropout_rate", "dropout_rate", "dropout_rate", "dropout_rate", 0.1, 0.1)
DENSE: Description = SHAPE | {"feed_forward_proj": feed_forward_name}
T5 = DENSE | architecture_field("T5ForConditionalGeneration")

FAMILIES = (
    Family("t5", build, T5, make_table("DenseReluDense"), RATES),
    Family(
        "mt5",
        lambda f: build(f, tied=False),
        DENSE | head_fields(divides_if_tied=False) | architecture_field("MT5ForConditionalGeneration"),
        make_table("DenseReluDense"),
        RATES,
    ),
    Family(
        "umt5",
        lambda f: build(f, own_bias=True),
        DENSE | architecture_field("UMT5ForConditionalGeneration"),
        make_table("DenseReluDense"),
        RATES,
    ),
    Family(
        "switch_transformers",
        build_switch,
        SHAPE | SWITCH | architecture_field("SwitchTransformersForConditionalGeneration"),
        make_table("mlp"),
        RATES,
    ),
)

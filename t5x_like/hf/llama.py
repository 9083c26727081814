"""LLaMA and the families that differ from it in a few fields: Mistral, Qwen 2 and 3, OLMo 2, Phi 3, Mixtral, Qwen MoE."""

from collections.abc import Callable
from typing import Any

from flax import linen as nn

from t5x_like.hf import ops
from t5x_like.hf.family import Family
from t5x_like.hf.fields import Fields, activation_name
from t5x_like.hf.modules import OMIT, Describe, at, constant, kind, stacked, unstacked
from t5x_like.hf.rope import rope, rope_fields, rotary_width
from t5x_like.hf.table import Rules, Table, norm, weights
from t5x_like.models import architectures, attention, blocks, heads, linear, masks, mlp, moe, norms, routers

LAYER = "model.layers.{}."


def model_of(
    f: Fields,
    mlp_of: Callable[[int], nn.Module],
    mask_of: Callable[[int], Callable],
    rotated: int | None = None,
    placement: Callable = blocks.pre,
    qk_norm: Callable | None = None,
    tied: bool = False,
    **attending,
) -> architectures.DecoderOnly:
    """A LLaMA with these MLPs and masks by layer; `attending` are further fields of its attention."""
    width, num_heads = f("hidden_size"), f("num_attention_heads")
    head_dim = f("head_dim", width // num_heads)

    # Every module is an object of its own: one that stood in two places would be one module, with one set of parameters.
    def norm() -> norms.RMSNorm:
        return norms.RMSNorm(f("rms_norm_eps", 1e-6))

    def layer(i: int) -> nn.Module:
        mixer = attention.SelfAttention(
            num_heads,
            head_dim,
            f("num_key_value_heads", num_heads),
            mask=mask_of(i),
            qk_norm=qk_norm and qk_norm(),
            **attending,
        )
        return blocks.Block(mixer=mixer, mlp=mlp_of(i), norm=norm(), placement=placement)

    layers = [layer(i) for i in range(f("num_hidden_layers"))]
    f.unused("max_position_embeddings", "max_sequence_length", "is_llama_config")
    for name in ("rope_interleaved", "use_mrope"):
        f.only(name, False)
    return architectures.DecoderOnly(
        linear.Embed(f("vocab_size"), width),
        stacked(layers, position=rope(f, rotated or head_dim), norm=norm()),
        heads.Tied() if f("tie_word_embeddings", tied) else heads.Untied(),
    )


def gated(f: Fields, width: str = "intermediate_size", use_bias: bool = False) -> mlp.Mlp:
    return mlp.Mlp(f(width), f.activation("hidden_act", "silu"), gated=True, use_bias=use_bias)


def windows(f: Fields, default: Callable[[int], bool], size: int | None) -> Callable[[int], Callable]:
    """The mask of every layer, by `layer_types` or else where `default` says that a layer has a window of `size`."""
    types = f("layer_types", None)
    if types is not None and set(types) - {"full_attention", "sliding_attention"}:
        raise ValueError(f"{f.where}: layer_types={sorted(set(types))} has a type that is not supported")
    if types is not None and len(types) != f("num_hidden_layers"):
        raise ValueError(f"{f.where}: layer_types has {len(types)} layers, num_hidden_layers={f('num_hidden_layers')}")

    if size is None and "sliding_attention" in (types or ()):
        raise ValueError(f"{f.where}: layer_types has sliding_attention, and there is no sliding_window that is used")

    def mask(i: int) -> Callable:
        local = default(i) if types is None else types[i] == "sliding_attention"
        return window(f, size) if local and size is not None else masks.causal

    return mask


def window(f: Fields, size: int) -> masks.Window:
    if size < 1:
        raise ValueError(f"{f.where}: sliding_window={size} is not a size; null is none")
    return masks.Window(size)


def everywhere(f: Fields) -> Callable[[int], Callable]:
    """The same window, or none, in every layer."""
    size = f("sliding_window", None)
    return lambda i: masks.causal if size is None else window(f, size)


def qwen_windows(f: Fields) -> Callable[[int], Callable]:
    """Qwen's: a window only where use_sliding_window says so, and only from layer max_window_layers on."""
    size = f("sliding_window", None)
    size = size if f("use_sliding_window", False) else None
    first = f("max_window_layers", 28)
    return windows(f, lambda i: size is not None and i >= first, size)


def build_llama(f: Fields) -> nn.Module:
    bias, mlp_bias = f("attention_bias", False), f("mlp_bias", False)
    return model_of(f, lambda i: gated(f, use_bias=mlp_bias), lambda i: masks.causal, use_bias=bias)


def build_mistral(f: Fields) -> nn.Module:
    f.defaults(sliding_window=4096)
    return model_of(f, lambda i: gated(f), everywhere(f))


def build_qwen2(f: Fields) -> nn.Module:
    return model_of(f, lambda i: gated(f), qwen_windows(f), use_bias=True, out_bias=False)


def qk_norm(f: Fields, dims: int = 1) -> Callable[[], norms.RMSNorm]:
    return lambda: norms.RMSNorm(f("rms_norm_eps", 1e-6), dims=dims)


def build_qwen3(f: Fields) -> nn.Module:
    bias = f("attention_bias", False)
    return model_of(f, lambda i: gated(f), qwen_windows(f), use_bias=bias, qk_norm=qk_norm(f))


def build_olmo2(f: Fields) -> nn.Module:
    f.defaults(rms_norm_eps=1e-5)
    options = {"placement": blocks.after, "use_bias": f("attention_bias", False), "qk_norm": qk_norm(f, dims=2)}
    return model_of(f, lambda i: gated(f), lambda i: masks.causal, **options)


def build_phi3(f: Fields) -> nn.Module:
    f.defaults(rms_norm_eps=1e-5)
    head_dim = f("head_dim", f("hidden_size") // f("num_attention_heads"))
    f.unused("original_max_position_embeddings", "embd_pdrop", "resid_pdrop")
    for name in ("attention_bias", "mlp_bias", "lm_head_bias"):
        f.only(name, False)
    for name in ("interpolate_factor", "full_attn_mod"):
        f.only(name, 1)
    rotated = rotary_width(f, head_dim, "partial_rotary_factor", 1.0)
    return model_of(f, lambda i: gated(f), everywhere(f), rotated)


def build_mixtral(f: Fields) -> nn.Module:
    f.defaults(rms_norm_eps=1e-5, rope_theta=1e6)

    def layer(i: int) -> moe.Moe:
        router = routers.TopK(f("num_local_experts"), f("num_experts_per_tok"))
        return moe.Moe(router, f("intermediate_size"), f.activation("hidden_act", "silu"), True, moe.dropless)

    return model_of(f, layer, everywhere(f))


def qwen_experts(f: Fields, shared: Callable | None = None) -> Callable[[int], nn.Module]:
    """The MLP of every layer: experts, but for the layers that the configuration keeps dense."""
    count = f("num_experts", None) or f("num_local_experts")  # transformers 4 and 5
    step, kept, normalize = f("decoder_sparse_step", 1), f("mlp_only_layers", []), f("norm_topk_prob", False)

    def layer(i: int) -> nn.Module:
        if i in kept or (i + 1) % step:
            return gated(f)
        router = routers.TopK(count, f("num_experts_per_tok"), normalize)
        activation, always = f.activation("hidden_act", "silu"), shared and shared()
        hidden = f("moe_intermediate_size")
        return moe.Moe(router, hidden, activation, True, moe.dropless, shared=always, shared_gate=shared is not None)

    f.unused("intermediate_size")
    return layer


def build_qwen3_moe(f: Fields) -> nn.Module:
    mask = everywhere(f) if f("use_sliding_window", False) else lambda i: masks.causal
    f.unused("sliding_window", "max_window_layers")
    return model_of(f, qwen_experts(f), mask, use_bias=f("attention_bias", False), qk_norm=qk_norm(f))


def build_qwen2_moe(f: Fields) -> nn.Module:
    experts = qwen_experts(f, lambda: gated(f, "shared_expert_intermediate_size"))
    bias = f("qkv_bias", True)
    f.only("use_sliding_window", False)  # which layers it means differs between implementations
    return model_of(f, experts, qwen_windows(f), use_bias=bias, out_bias=False)


SHAPE: Describe = {
    "vocab_size": "embed.vocab_size",
    "hidden_size": "embed.width",
    "num_hidden_layers": lambda model: len(unstacked(model.decoder)),
    "num_attention_heads": "decoder.layers.0.mixer.num_heads",
    "num_key_value_heads": lambda model: kv_heads(at(model, "decoder.layers.0.mixer")),
    "head_dim": "decoder.layers.0.mixer.head_dim",
    "rms_norm_eps": "decoder.norm.epsilon",
    "tie_word_embeddings": lambda model: kind(model.head) == "Tied",
    **rope_fields("decoder.position"),
}
DENSE: Describe = SHAPE | {
    "intermediate_size": "decoder.layers.0.mlp.hidden_dim",
    "hidden_act": lambda model: activation_name(at(model, "decoder.layers.0.mlp").activation),
}


def kv_heads(mixer) -> int:
    return mixer.num_kv_heads or mixer.num_heads


def window_size(model: nn.Module) -> int | None:
    """The size of the windows, None where every layer sees everything."""
    sizes = [layer.mixer.mask.size for layer in unstacked(model.decoder) if kind(layer.mixer.mask) == "Window"]
    return sizes[0] if sizes else None


def layer_types(model: nn.Module) -> list[str]:
    local = [kind(layer.mixer.mask) == "Window" for layer in unstacked(model.decoder)]
    return ["sliding_attention" if x else "full_attention" for x in local]


WINDOWS: Describe = {"sliding_window": window_size}
QWEN_WINDOWS: Describe = {
    "sliding_window": window_size,
    "use_sliding_window": lambda model: window_size(model) is not None,
    "layer_types": layer_types,
    "max_window_layers": lambda model: [*layer_types(model), "sliding_attention"].index("sliding_attention"),
}
BIAS: Describe = {"attention_bias": "decoder.layers.0.mixer.use_bias"}


def sparse_layers(model: nn.Module) -> list[int]:
    return [i for i, layer in enumerate(unstacked(model.decoder)) if kind(layer.mlp) == "Moe"]


def sparse(path: str) -> Callable[[nn.Module], Any]:
    """The value at a path of the first layer of experts."""
    return lambda model: at(model, f"decoder.layers.{sparse_layers(model)[0]}.mlp.{path}")


def dense_width(model: nn.Module) -> int:
    """The width of the MLPs that are no experts; where there is none, that of an expert."""
    dense = [layer.mlp.hidden_dim for layer in unstacked(model.decoder) if kind(layer.mlp) == "Mlp"]
    return dense[0] if dense else sparse("hidden_dim")(model)


EXPERTS: Describe = {
    "num_experts_per_tok": sparse("router.top_k"),
    "hidden_act": lambda model: activation_name(sparse("activation")(model)),
}
MIXTRAL_FIELDS: Describe = EXPERTS | {
    "num_local_experts": sparse("router.num_experts"),
    "intermediate_size": sparse("hidden_dim"),
}
QWEN_FIELDS: Describe = EXPERTS | {
    "num_experts": sparse("router.num_experts"),
    "norm_topk_prob": sparse("router.normalize"),
    "moe_intermediate_size": sparse("hidden_dim"),
    "intermediate_size": dense_width,
    "decoder_sparse_step": constant(1),
    "mlp_only_layers": lambda model: sorted(set(range(len(unstacked(model.decoder)))) - set(sparse_layers(model))),
}


def shared_width(model: nn.Module) -> int:
    return sparse("shared.hidden_dim")(model)


def partial_share(model: nn.Module) -> float:
    return model.decoder.position.width / at(model, "decoder.layers.0.mixer.head_dim")


ATTENTION: Rules = {
    **weights(LAYER + "self_attn.q_proj", "decoder.{}.mixer.query"),
    **weights(LAYER + "self_attn.k_proj", "decoder.{}.mixer.key"),
    **weights(LAYER + "self_attn.v_proj", "decoder.{}.mixer.value"),
    **weights(LAYER + "self_attn.o_proj", "decoder.{}.mixer.out", ops.linear(2)),
    **norm(LAYER + "self_attn.q_norm", "decoder.{}.mixer.query_norm"),
    **norm(LAYER + "self_attn.k_norm", "decoder.{}.mixer.key_norm"),
}
MLP: Rules = {
    **weights(LAYER + "mlp.gate_proj", "decoder.{}.mlp.gate"),
    **weights(LAYER + "mlp.up_proj", "decoder.{}.mlp.up"),
    **weights(LAYER + "mlp.down_proj", "decoder.{}.mlp.down"),
}
ENDS: Rules = {
    "model.embed_tokens.weight": ("embed.table", ops.same),
    **norm("model.norm", "decoder.norm"),
    "lm_head.weight": ("head.table", ops.same),
}
NORMS: Rules = {
    **norm(LAYER + "input_layernorm", "decoder.{}.mixer_norm"),
    **norm(LAYER + "post_attention_layernorm", "decoder.{}.mlp_norm"),
}
AFTER: Rules = {
    **norm(LAYER + "post_attention_layernorm", "decoder.{}.mixer_norm"),
    **norm(LAYER + "post_feedforward_layernorm", "decoder.{}.mlp_norm"),
}


def expert_rules(router: str, gate: str, up: str, down: str) -> Rules:
    """Rules of a router and of its experts' three matrices."""
    return {
        router: ("decoder.{}.mlp.router.gate.kernel", ops.linear()),
        gate: ("decoder.{}.mlp.gate", ops.linear()),
        up: ("decoder.{}.mlp.up", ops.linear()),
        down: ("decoder.{}.mlp.down", ops.linear()),
    }


EXPERT = LAYER + "mlp.experts.{e}."
MIXTRAL = LAYER + "block_sparse_moe."
MIXTRAL_EXPERTS = expert_rules(
    MIXTRAL + "gate.weight",
    *(MIXTRAL + "experts.{e}." + name + ".weight" for name in ("w1", "w3", "w2")),
)
QWEN_EXPERTS = expert_rules(
    LAYER + "mlp.gate.weight", *(EXPERT + name + ".weight" for name in ("gate_proj", "up_proj", "down_proj"))
)
SHARED: Rules = {
    **weights(LAYER + "mlp.shared_expert.gate_proj", "decoder.{}.mlp.shared.gate"),
    **weights(LAYER + "mlp.shared_expert.up_proj", "decoder.{}.mlp.shared.up"),
    **weights(LAYER + "mlp.shared_expert.down_proj", "decoder.{}.mlp.shared.down"),
    **weights(LAYER + "mlp.shared_expert_gate", "decoder.{}.mlp.shared_router"),
}
QKV = [f"decoder.{{}}.mixer.{name}" for name in ("query", "key", "value")]
PHI3: Rules = {
    **weights(LAYER + "self_attn.qkv_proj", QKV, ops.side_by_side(True), ops.side_by_side(False)),
    **weights(LAYER + "self_attn.o_proj", "decoder.{}.mixer.out", ops.linear(2)),
    **weights(LAYER + "mlp.gate_up_proj", ["decoder.{}.mlp.gate", "decoder.{}.mlp.up"], ops.side_by_side(True)),
    **weights(LAYER + "mlp.down_proj", "decoder.{}.mlp.down"),
}


def table(*rules: Rules) -> Callable[[nn.Module], Table]:
    """The table of these rules and the ends that all of these families share."""
    joined = {name: rule for part in (ENDS, *rules) for name, rule in part.items()}
    result = Table(
        joined, {r"lm_head\.weight": "model.embed_tokens.weight"}, r".*rotary_emb\.inv_freq", prefix="model."
    )
    return lambda model: result


def causal_lm(name: str) -> Describe:
    return {"architectures": constant([f"{name}ForCausalLM"])}


LLAMA = DENSE | BIAS | {"mlp_bias": "decoder.layers.0.mlp.use_bias"} | causal_lm("Llama")
PHI3_SHARE: Describe = {
    "partial_rotary_factor": partial_share,
    "head_dim": constant(OMIT),
    # Absent it is 32000, which others refuse where there are fewer words.
    "pad_token_id": lambda model: None if model.embed.vocab_size <= 32000 else OMIT,
}
QWEN3_MOE = SHAPE | BIAS | QWEN_WINDOWS | QWEN_FIELDS | {"layer_types": constant(OMIT)}
QWEN2_MOE: Describe = (
    SHAPE
    | QWEN_WINDOWS
    | QWEN_FIELDS
    | {"shared_expert_intermediate_size": shared_width, "qkv_bias": "decoder.layers.0.mixer.use_bias"}
)

FAMILIES = (
    Family("llama", build_llama, LLAMA, table(ATTENTION, MLP, NORMS)),
    Family("mistral", build_mistral, DENSE | WINDOWS | causal_lm("Mistral"), table(ATTENTION, MLP, NORMS)),
    Family("qwen2", build_qwen2, DENSE | QWEN_WINDOWS | causal_lm("Qwen2"), table(ATTENTION, MLP, NORMS)),
    Family("qwen3", build_qwen3, DENSE | BIAS | QWEN_WINDOWS | causal_lm("Qwen3"), table(ATTENTION, MLP, NORMS)),
    Family("olmo2", build_olmo2, DENSE | BIAS | causal_lm("Olmo2"), table(ATTENTION, MLP, AFTER)),
    Family("phi3", build_phi3, DENSE | WINDOWS | PHI3_SHARE | causal_lm("Phi3"), table(PHI3, NORMS)),
    Family(
        "mixtral",
        build_mixtral,
        SHAPE | WINDOWS | MIXTRAL_FIELDS | causal_lm("Mixtral"),
        table(ATTENTION, MIXTRAL_EXPERTS, NORMS),
    ),
    Family("qwen3_moe", build_qwen3_moe, QWEN3_MOE | causal_lm("Qwen3Moe"), table(ATTENTION, MLP, QWEN_EXPERTS, NORMS)),
    Family(
        "qwen2_moe",
        build_qwen2_moe,
        QWEN2_MOE | causal_lm("Qwen2Moe"),
        table(ATTENTION, MLP, QWEN_EXPERTS, SHARED, NORMS),
    ),
)

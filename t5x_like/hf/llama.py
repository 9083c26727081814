"""LLaMA and the families that differ from it in a few fields: Mistral, Qwen 2 and 3, OLMo 2, Phi 3, Mixtral, Qwen MoE."""

from collections.abc import Callable
from typing import Any

from flax import linen as nn

from t5x_like.hf import ops
from t5x_like.hf.dropout import Rates
from t5x_like.hf.family import Family
from t5x_like.hf.fields import Fields, activation_name
from t5x_like.hf.modules import OMIT, Description, class_name, constant, get_path, stack_layers, unstack_layers
from t5x_like.hf.rope import build_rope, rope_fields, rotary_width
from t5x_like.hf.table import Rules, Table, linear_rules, norm_rules
from t5x_like.hf.windows import qwen_masks, uniform_mask
from t5x_like.models import architectures, attention, blocks, heads, linear, masks, mlp, moe, norms, routers

LAYER = "model.layers.{}."


def read_head_dim(f: Fields) -> int:
    """Returns the width of a head."""
    width, num_heads = f("hidden_size"), f("num_attention_heads")
    return f.optional("head_dim", 1) or f.split("hidden_size", width, "num_attention_heads", num_heads)


def build_decoder(
    f: Fields,
    mlp_of: Callable[[int], nn.Module],
    mask_of: Callable[[int], Callable],
    rotated: int | None = None,
    placement: Callable = blocks.pre,
    qk_norm: Callable | None = None,
    tied: bool = False,
    **options: Any,
) -> architectures.DecoderOnly:
    """Builds a LLaMA with MLPs and masks by layer. `rotated` is the rotary width; `options` are fields of the attention."""
    width, num_heads = f("hidden_size"), f("num_attention_heads")
    head_dim = read_head_dim(f)

    # One new object per use: a Flax module in two places would share its parameters.
    def norm() -> norms.RMSNorm:
        return norms.RMSNorm(f.epsilon("rms_norm_eps", 1e-6))

    def layer(i: int) -> nn.Module:
        mixer = attention.SelfAttention(
            num_heads,
            head_dim,
            f.kv_heads(num_heads),
            mask=mask_of(i),
            qk_norm=qk_norm and qk_norm(),
            **options,
        )
        return blocks.Block(mixer=mixer, mlp=mlp_of(i), norm=norm(), placement=placement)

    layers = [layer(i) for i in range(f.count("num_hidden_layers"))]
    f.ignore("max_position_embeddings", "max_sequence_length", "is_llama_config")
    for name in ("rope_interleaved", "use_mrope"):
        f.expect(name, False)
    return architectures.DecoderOnly(
        linear.Embed(f("vocab_size"), width),
        stack_layers(layers, position=build_rope(f, rotated or head_dim), norm=norm()),
        heads.Tied() if f("tie_word_embeddings", tied) else heads.Untied(),
    )


def gated_mlp(f: Fields, width: str = "intermediate_size", use_bias: bool = False) -> mlp.Mlp:
    """Builds a gated MLP; `width` is the field of its hidden width."""
    return mlp.Mlp(f(width), f.activation("hidden_act", "silu"), gated=True, use_bias=use_bias)


def build_llama(f: Fields) -> nn.Module:
    """Builds LLaMA."""
    bias, mlp_bias = f("attention_bias", False), f("mlp_bias", False)
    return build_decoder(f, lambda i: gated_mlp(f, use_bias=mlp_bias), lambda i: masks.causal, use_bias=bias)


def build_mistral(f: Fields) -> nn.Module:
    """Builds Mistral."""
    f.set_defaults(sliding_window=4096)
    return build_decoder(f, lambda i: gated_mlp(f), uniform_mask(f))


def build_qwen2(f: Fields) -> nn.Module:
    """Builds Qwen 2."""
    return build_decoder(f, lambda i: gated_mlp(f), qwen_masks(f), use_bias=True, out_bias=False)


def make_qk_norm(f: Fields, dims: int = 1) -> Callable[[], norms.RMSNorm]:
    """Returns a function that makes the norm of queries and keys, over the last `dims` dimensions."""
    return lambda: norms.RMSNorm(f.epsilon("rms_norm_eps", 1e-6), dims=dims)


def build_qwen3(f: Fields) -> nn.Module:
    """Builds Qwen 3."""
    bias = f("attention_bias", False)
    return build_decoder(f, lambda i: gated_mlp(f), qwen_masks(f), use_bias=bias, qk_norm=make_qk_norm(f))


def build_olmo2(f: Fields) -> nn.Module:
    """Builds OLMo 2."""
    f.set_defaults(rms_norm_eps=1e-5)
    options = {"placement": blocks.after, "use_bias": f("attention_bias", False), "qk_norm": make_qk_norm(f, dims=2)}
    return build_decoder(f, lambda i: gated_mlp(f), lambda i: masks.causal, **options)


def build_phi3(f: Fields) -> nn.Module:
    """Builds Phi 3."""
    f.set_defaults(rms_norm_eps=1e-5)
    head_dim = read_head_dim(f)
    f.ignore("original_max_position_embeddings", "embd_pdrop")
    for name in ("attention_bias", "mlp_bias", "lm_head_bias"):
        f.expect(name, False)
    for name in ("interpolate_factor", "full_attn_mod"):
        f.expect(name, 1)
    rotated = rotary_width(f, head_dim, "partial_rotary_factor", 1.0)
    return build_decoder(f, lambda i: gated_mlp(f), uniform_mask(f), rotated)


def build_mixtral(f: Fields) -> nn.Module:
    """Builds Mixtral."""
    f.set_defaults(rms_norm_eps=1e-5, rope_theta=1e6)

    def layer(i: int) -> moe.Moe:
        experts = f.count("num_local_experts")
        router = routers.TopK(experts, f("num_experts_per_tok", high=experts))
        return moe.Moe(router, f("intermediate_size"), f.activation("hidden_act", "silu"), True, moe.dropless)

    return build_decoder(f, layer, uniform_mask(f))


def qwen_mlps(f: Fields, shared: Callable | None = None) -> Callable[[int], nn.Module]:
    """Returns the MLP of every layer: experts, except in the layers that the configuration keeps dense."""
    count = f.optional("num_experts", 1) or f("num_local_experts")  # transformers 4 and 5
    f.check_count("num_experts", count)
    dense = f.optional("mlp_only_layers", [1], low=0) or []
    step, normalize = f("decoder_sparse_step", 1), f("norm_topk_prob", False)

    def layer(i: int) -> nn.Module:
        if i in dense or (i + 1) % step:
            return gated_mlp(f)
        router = routers.TopK(count, f("num_experts_per_tok", high=count), normalize)
        activation, hidden = f.activation("hidden_act", "silu"), f("moe_intermediate_size")
        expert = shared and shared()
        return moe.Moe(router, hidden, activation, True, moe.dropless, shared=expert, shared_gate=shared is not None)

    f.ignore("intermediate_size")
    return layer


def build_qwen3_moe(f: Fields) -> nn.Module:
    """Builds Qwen 3 MoE."""
    mask = uniform_mask(f) if f("use_sliding_window", False) else lambda i: masks.causal
    f.ignore("sliding_window", "max_window_layers")
    return build_decoder(f, qwen_mlps(f), mask, use_bias=f("attention_bias", False), qk_norm=make_qk_norm(f))


def build_qwen2_moe(f: Fields) -> nn.Module:
    """Builds Qwen 2 MoE."""
    experts = qwen_mlps(f, lambda: gated_mlp(f, "shared_expert_intermediate_size"))
    bias = f("qkv_bias", True)
    f.expect("use_sliding_window", False)  # implementations differ in the layers that it affects
    return build_decoder(f, experts, qwen_masks(f), use_bias=bias, out_bias=False)


SHAPE: Description = {
    "vocab_size": "embed.vocab_size",
    "hidden_size": "embed.width",
    "num_hidden_layers": lambda model: len(unstack_layers(model.decoder)),
    "num_attention_heads": "decoder.layers.0.mixer.num_heads",
    "num_key_value_heads": lambda model: count_kv_heads(get_path(model, "decoder.layers.0.mixer")),
    "head_dim": "decoder.layers.0.mixer.head_dim",
    "rms_norm_eps": "decoder.norm.epsilon",
    "tie_word_embeddings": lambda model: class_name(model.head) == "Tied",
    **rope_fields("decoder.position"),
}
DENSE: Description = SHAPE | {
    "intermediate_size": "decoder.layers.0.mlp.hidden_dim",
    "hidden_act": lambda model: activation_name(get_path(model, "decoder.layers.0.mlp").activation),
}


def count_kv_heads(mixer: Any) -> int:
    """The number of key/value heads of an attention."""
    return mixer.num_kv_heads or mixer.num_heads


def window_size(model: nn.Module) -> int | None:
    """The size of the windows; None if no layer has one."""
    sizes = [
        layer.mixer.mask.size for layer in unstack_layers(model.decoder) if class_name(layer.mixer.mask) == "Window"
    ]
    return sizes[0] if sizes else None


def layer_types(model: nn.Module) -> list[str]:
    """The field layer_types."""
    local = [class_name(layer.mixer.mask) == "Window" for layer in unstack_layers(model.decoder)]
    return ["sliding_attention" if x else "full_attention" for x in local]


WINDOWS: Description = {"sliding_window": window_size}
QWEN_WINDOWS: Description = {
    "sliding_window": window_size,
    "use_sliding_window": lambda model: window_size(model) is not None,
    "layer_types": layer_types,
    "max_window_layers": lambda model: [*layer_types(model), "sliding_attention"].index("sliding_attention"),
}
BIAS: Description = {"attention_bias": "decoder.layers.0.mixer.use_bias"}


def moe_layers(model: nn.Module) -> list[int]:
    """The numbers of the layers with experts."""
    return [i for i, layer in enumerate(unstack_layers(model.decoder)) if class_name(layer.mlp) == "Moe"]


def moe_value(path: str) -> Callable[[nn.Module], Any]:
    """Returns a function that gives the value at a path of the first Moe."""
    return lambda model: get_path(model, f"decoder.layers.{moe_layers(model)[0]}.mlp.{path}")


def dense_mlp_width(model: nn.Module) -> int:
    """The hidden width of the dense MLPs; without dense layers, that of an expert."""
    dense = [layer.mlp.hidden_dim for layer in unstack_layers(model.decoder) if class_name(layer.mlp) == "Mlp"]
    return dense[0] if dense else moe_value("hidden_dim")(model)


EXPERTS: Description = {
    "num_experts_per_tok": moe_value("router.top_k"),
    "hidden_act": lambda model: activation_name(moe_value("activation")(model)),
}
MIXTRAL_FIELDS: Description = EXPERTS | {
    "num_local_experts": moe_value("router.num_experts"),
    "intermediate_size": moe_value("hidden_dim"),
}
QWEN_FIELDS: Description = EXPERTS | {
    "num_experts": moe_value("router.num_experts"),
    "norm_topk_prob": moe_value("router.normalize"),
    "moe_intermediate_size": moe_value("hidden_dim"),
    "intermediate_size": dense_mlp_width,
    "decoder_sparse_step": constant(1),
    "mlp_only_layers": lambda model: sorted(set(range(len(unstack_layers(model.decoder)))) - set(moe_layers(model))),
}


def rotary_share(model: nn.Module) -> float:
    """The rotated fraction of a head."""
    return model.decoder.position.width / get_path(model, "decoder.layers.0.mixer.head_dim")


ATTENTION: Rules = {
    **linear_rules(LAYER + "self_attn.q_proj", "decoder.{}.mixer.query"),
    **linear_rules(LAYER + "self_attn.k_proj", "decoder.{}.mixer.key"),
    **linear_rules(LAYER + "self_attn.v_proj", "decoder.{}.mixer.value"),
    **linear_rules(LAYER + "self_attn.o_proj", "decoder.{}.mixer.out", ops.linear(2)),
    **norm_rules(LAYER + "self_attn.q_norm", "decoder.{}.mixer.query_norm"),
    **norm_rules(LAYER + "self_attn.k_norm", "decoder.{}.mixer.key_norm"),
}
MLP: Rules = {
    **linear_rules(LAYER + "mlp.gate_proj", "decoder.{}.mlp.gate"),
    **linear_rules(LAYER + "mlp.up_proj", "decoder.{}.mlp.up"),
    **linear_rules(LAYER + "mlp.down_proj", "decoder.{}.mlp.down"),
}
EMBEDDING_AND_HEAD: Rules = {
    "model.embed_tokens.weight": ("embed.table", ops.identity),
    **norm_rules("model.norm", "decoder.norm"),
    "lm_head.weight": ("head.table", ops.identity),
}
NORMS: Rules = {
    **norm_rules(LAYER + "input_layernorm", "decoder.{}.mixer_norm"),
    **norm_rules(LAYER + "post_attention_layernorm", "decoder.{}.mlp_norm"),
}
POST_NORMS: Rules = {
    **norm_rules(LAYER + "post_attention_layernorm", "decoder.{}.mixer_norm"),
    **norm_rules(LAYER + "post_feedforward_layernorm", "decoder.{}.mlp_norm"),
}


def expert_rules(router: str, gate: str, up: str, down: str) -> Rules:
    """The rules of a router and of the three matrices of its experts."""
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
SHARED_EXPERT: Rules = {
    **linear_rules(LAYER + "mlp.shared_expert.gate_proj", "decoder.{}.mlp.shared.gate"),
    **linear_rules(LAYER + "mlp.shared_expert.up_proj", "decoder.{}.mlp.shared.up"),
    **linear_rules(LAYER + "mlp.shared_expert.down_proj", "decoder.{}.mlp.shared.down"),
    **linear_rules(LAYER + "mlp.shared_expert_gate", "decoder.{}.mlp.shared_router"),
}
QKV = [f"decoder.{{}}.mixer.{name}" for name in ("query", "key", "value")]
PHI3: Rules = {
    **linear_rules(LAYER + "self_attn.qkv_proj", QKV, ops.concatenate(True), ops.concatenate(False)),
    **linear_rules(LAYER + "self_attn.o_proj", "decoder.{}.mixer.out", ops.linear(2)),
    **linear_rules(LAYER + "mlp.gate_up_proj", ["decoder.{}.mlp.gate", "decoder.{}.mlp.up"], ops.concatenate(True)),
    **linear_rules(LAYER + "mlp.down_proj", "decoder.{}.mlp.down"),
}


def make_table(*rules: Rules) -> Callable[[nn.Module], Table]:
    """Returns a function that gives the table of these rules and of the shared embedding, final norm and head."""
    joined = {name: rule for part in (EMBEDDING_AND_HEAD, *rules) for name, rule in part.items()}
    result = Table(
        joined, {r"lm_head\.weight": "model.embed_tokens.weight"}, r".*rotary_emb\.inv_freq", prefix="model."
    )
    return lambda model: result


def causal_lm_field(name: str) -> Description:
    """The field `architectures`."""
    return {"architectures": constant([f"{name}ForCausalLM"])}


LLAMA = DENSE | BIAS | {"mlp_bias": "decoder.layers.0.mlp.use_bias"} | causal_lm_field("Llama")
PHI3_FIELDS: Description = {
    "partial_rotary_factor": rotary_share,
    "head_dim": constant(OMIT),
    # The default is 32000, which other libraries reject for smaller vocabularies.
    "pad_token_id": lambda model: None if model.embed.vocab_size <= 32000 else OMIT,
}
QWEN3_MOE = SHAPE | BIAS | QWEN_WINDOWS | QWEN_FIELDS | {"layer_types": constant(OMIT)}
QWEN2_MOE: Description = (
    SHAPE
    | QWEN_WINDOWS
    | QWEN_FIELDS
    | {"shared_expert_intermediate_size": moe_value("shared.hidden_dim"), "qkv_bias": "decoder.layers.0.mixer.use_bias"}
)

FAMILIES = (
    Family("llama", build_llama, LLAMA, make_table(ATTENTION, MLP, NORMS)),
    Family("mistral", build_mistral, DENSE | WINDOWS | causal_lm_field("Mistral"), make_table(ATTENTION, MLP, NORMS)),
    Family("qwen2", build_qwen2, DENSE | QWEN_WINDOWS | causal_lm_field("Qwen2"), make_table(ATTENTION, MLP, NORMS)),
    Family(
        "qwen3", build_qwen3, DENSE | BIAS | QWEN_WINDOWS | causal_lm_field("Qwen3"), make_table(ATTENTION, MLP, NORMS)
    ),
    Family("olmo2", build_olmo2, DENSE | BIAS | causal_lm_field("Olmo2"), make_table(ATTENTION, MLP, POST_NORMS)),
    Family(
        "phi3",
        build_phi3,
        DENSE | WINDOWS | PHI3_FIELDS | causal_lm_field("Phi3"),
        make_table(PHI3, NORMS),
        Rates(residual="resid_pdrop"),
    ),
    Family(
        "mixtral",
        build_mixtral,
        SHAPE | WINDOWS | MIXTRAL_FIELDS | causal_lm_field("Mixtral"),
        make_table(ATTENTION, MIXTRAL_EXPERTS, NORMS),
    ),
    Family(
        "qwen3_moe",
        build_qwen3_moe,
        QWEN3_MOE | causal_lm_field("Qwen3Moe"),
        make_table(ATTENTION, MLP, QWEN_EXPERTS, NORMS),
    ),
    Family(
        "qwen2_moe",
        build_qwen2_moe,
        QWEN2_MOE | causal_lm_field("Qwen2Moe"),
        make_table(ATTENTION, MLP, QWEN_EXPERTS, SHARED_EXPERT, NORMS),
    ),
)

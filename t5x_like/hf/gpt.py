"""GPT-2 and related families: GPT-J, CodeGen, GPT-NeoX, Phi, BLOOM."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from flax import linen as nn

from t5x_like.hf import ops
from t5x_like.hf.dropout import Rates
from t5x_like.hf.family import Family
from t5x_like.hf.fields import Fields, activation_name
from t5x_like.hf.llama import count_kv_heads
from t5x_like.hf.modules import Description, class_name, constant, get_path, stack_layers, unstack_layers
from t5x_like.hf.rope import build_rope, check_rotary, rope_fields, rotary_width
from t5x_like.hf.table import Rules, Table, linear_rules, norm_rules
from t5x_like.models import architectures, attention, blocks, heads, linear, mlp, norms, positions

FIRST = "decoder.layers.0"
QKV = [f"decoder.{{}}.mixer.{name}" for name in ("query", "key", "value")]
LAYER = "transformer.h.{}."
CORES = 4  # of the TPU slices that CodeGen was trained on; its fused matrix is split by core


def build_decoder(
    embed: nn.Module, layers: list[nn.Module], norm: nn.Module | None, head: nn.Module, **options: Any
) -> architectures.DecoderOnly:
    """Builds a decoder-only model; `options` are further fields of its stack."""
    return architectures.DecoderOnly(embed, stack_layers(layers, norm=norm, **options), head)


def build_head(f: Fields, tied: bool, bias: bool = False) -> nn.Module:
    """Builds a tied or an untied head; `tied` is the family's default."""
    return heads.Tied(use_bias=bias) if f("tie_word_embeddings", tied) else heads.Untied(use_bias=bias)


def build_gpt2(f: Fields) -> nn.Module:
    """Builds GPT-2."""
    width, num_heads, epsilon = f("n_embd"), f("n_head"), f.epsilon("layer_norm_epsilon", 1e-5)
    head_dim = f.split("n_embd", width, "n_head", num_heads)
    scale = None if f("scale_attn_weights", True) else 1.0
    f.expect("scale_attn_by_inverse_layer_idx", False)
    f.expect("add_cross_attention", False)
    f.ignore("reorder_and_upcast_attn", "n_ctx", "n_special", "predict_special_tokens")

    def layer() -> nn.Module:
        mixer = attention.SelfAttention(num_heads, head_dim, use_bias=True, scale=scale)
        return blocks.Block(mixer=mixer, mlp=build_mlp(f, width), norm=norms.LayerNorm(epsilon))

    return build_decoder(
        linear.Embed(f("vocab_size"), width),
        [layer() for _ in range(f.count("n_layer"))],
        norms.LayerNorm(epsilon),
        build_head(f, True),
        position=positions.Learned(f("n_positions")),
    )


def build_mlp(f: Fields, width: int) -> mlp.Mlp:
    """Builds an MLP with biases, from GPT-2's fields."""
    return mlp.Mlp(f("n_inner", 4 * width), f.activation("activation_function", "gelu_new"), use_bias=True)


def build_gptj(f: Fields) -> nn.Module:
    """Builds GPT-J or CodeGen: partial rotary positions, attention and MLP in parallel behind one norm."""
    width, num_heads, epsilon = f("n_embd"), f("n_head"), f.epsilon("layer_norm_epsilon", 1e-5)
    head_dim = f.split("n_embd", width, "n_head", num_heads)
    f.ignore("n_positions", "n_ctx")
    for name in ("rotary", "scale_attn_weights"):
        f.expect(name, True)

    def layer() -> nn.Module:
        mixer = attention.SelfAttention(num_heads, head_dim)
        norm = norms.LayerNorm(epsilon)
        return blocks.Block(mixer=mixer, mlp=build_mlp(f, width), norm=norm, placement=blocks.parallel)

    return build_decoder(
        linear.Embed(f("vocab_size"), width),
        [layer() for _ in range(f.count("n_layer"))],
        norms.LayerNorm(epsilon),
        build_head(f, False, bias=True),
        position=positions.Rope(check_rotary(f, f("rotary_dim"), head_dim)),
    )


def build_gpt_neox(f: Fields) -> nn.Module:
    """Builds GPT-NeoX."""
    width, num_heads, epsilon = f("hidden_size"), f("num_attention_heads"), f.epsilon("layer_norm_eps", 1e-5)
    placement = blocks.parallel_own_norms if f("use_parallel_residual", True) else blocks.pre
    head_dim, bias = f.split("hidden_size", width, "num_attention_heads", num_heads), f("attention_bias", True)
    base = f("rotary_emb_base", 1e4) if f("rope_parameters", {}) else f.either("rope_theta", "rotary_emb_base", 1e4)
    f.ignore("max_position_embeddings", "partial_rotary_factor")

    def layer() -> nn.Module:
        mixer = attention.SelfAttention(num_heads, head_dim, use_bias=bias)
        dense = mlp.Mlp(f("intermediate_size"), f.activation("hidden_act", "gelu"), use_bias=True)
        return blocks.Block(mixer=mixer, mlp=dense, norm=norms.LayerNorm(epsilon), placement=placement)

    return build_decoder(
        linear.Embed(f("vocab_size"), width),
        [layer() for _ in range(f.count("num_hidden_layers"))],
        norms.LayerNorm(epsilon),
        build_head(f, False),
        position=build_rope(f, rotary_width(f, head_dim, "rotary_pct", 0.25), base),
    )


def build_phi(f: Fields) -> nn.Module:
    """Builds Phi."""
    width, num_heads, epsilon = f("hidden_size"), f("num_attention_heads"), f.epsilon("layer_norm_eps", 1e-5)
    head_dim = f.split("hidden_size", width, "num_attention_heads", num_heads)
    f.expect("qk_layernorm", False)
    f.ignore("max_position_embeddings")

    def layer() -> nn.Module:
        mixer = attention.SelfAttention(num_heads, head_dim, f.kv_heads(num_heads), use_bias=True)
        dense = mlp.Mlp(f("intermediate_size"), f.activation("hidden_act", "gelu_new"), use_bias=True)
        return blocks.Block(mixer=mixer, mlp=dense, norm=norms.LayerNorm(epsilon), placement=blocks.parallel)

    return build_decoder(
        linear.Embed(f("vocab_size"), width),
        [layer() for _ in range(f.count("num_hidden_layers"))],
        norms.LayerNorm(epsilon),
        build_head(f, False, bias=True),
        position=build_rope(f, rotary_width(f, head_dim, "partial_rotary_factor", 0.5)),
    )


def build_bloom(f: Fields) -> nn.Module:
    """Builds BLOOM."""
    width, epsilon = f.either("hidden_size", "n_embed"), f.epsilon("layer_norm_epsilon", 1e-5)
    num_heads, count = f.either("n_head", "num_attention_heads"), f.either("n_layer", "num_hidden_layers")
    f.check_count("n_layer", count)
    head_dim = f.split("hidden_size", width, "n_head", num_heads)
    f.expect("apply_residual_connection_post_layernorm", False)
    f.ignore("slow_but_exact", "attention_softmax_in_fp32", "masked_softmax_fusion", "bias_dropout_fusion")
    f.ignore("offset_alibi", "seq_length", "skip_bias_add", "skip_bias_add_qkv", "unk_token_id")
    f.expect("n_inner", 4 * width)

    def layer() -> nn.Module:
        mixer = attention.SelfAttention(num_heads, head_dim, use_bias=True)
        dense = mlp.Mlp(4 * width, mlp.gelu_tanh, use_bias=True)
        return blocks.Block(mixer=mixer, mlp=dense, norm=norms.LayerNorm(epsilon))

    return build_decoder(
        linear.Embed(f("vocab_size"), width),
        [layer() for _ in range(count)],
        norms.LayerNorm(epsilon),
        build_head(f, True),
        position=positions.Alibi(num_heads),
        input_norm=norms.LayerNorm(epsilon),
    )


def shape_fields(
    width: str, layers: str, count: str, epsilon: str, hidden: str | None, activation: str | None
) -> Description:
    """The fields of sizes, which have different names in every family."""
    fields: Description = {
        "vocab_size": "embed.vocab_size",
        width: "embed.width",
        layers: lambda model: len(unstack_layers(model.decoder)),
        count: f"{FIRST}.mixer.num_heads",
        epsilon: "decoder.norm.epsilon",
        "tie_word_embeddings": lambda model: class_name(model.head) == "Tied",
    }
    if hidden:
        fields[hidden] = f"{FIRST}.mlp.hidden_dim"
    if activation:
        fields[activation] = lambda model: activation_name(get_path(model, FIRST).mlp.activation)
    return fields


GPT2 = shape_fields("n_embd", "n_layer", "n_head", "layer_norm_epsilon", "n_inner", "activation_function")
NEOX = shape_fields(
    "hidden_size", "num_hidden_layers", "num_attention_heads", "layer_norm_eps", "intermediate_size", "hidden_act"
)
BLOOM = shape_fields("hidden_size", "n_layer", "n_head", "layer_norm_epsilon", None, None)
ROTARY_FIELDS: Description = {"rotary_dim": "decoder.position.width"}


def rotary_share(model: nn.Module) -> float:
    """The rotated fraction of a head."""
    return model.decoder.position.width / get_path(model, f"{FIRST}.mixer.head_dim")


def architecture_field(architecture: str) -> Description:
    """The field `architectures`."""
    return {"architectures": constant([architecture])}


def rotary_rules(name_of: Callable[[str], str], width: int) -> Rules:
    """The rules of GPT-J's queries and keys, whose rotary pairs are neighbours, and of its values."""
    paired = ops.linear().then(ops.deinterleave(width))
    return {
        name_of("q"): ("decoder.{}.mixer.query.kernel", paired),
        name_of("k"): ("decoder.{}.mixer.key.kernel", paired),
        name_of("v"): ("decoder.{}.mixer.value.kernel", ops.linear()),
    }


def kernel_paths(names: list[str]) -> tuple[str, ...]:
    """The paths of the kernels of some modules."""
    return tuple(f"{name}.kernel" for name in names)


@functools.cache
def codegen_qkv(width: int) -> ops.Op:
    """CodeGen's fused matrix: split by core, with rotary pairs of queries and keys as neighbours."""
    by_core, paired = ops.qkv_by_core(CORES), ops.deinterleave(width)

    def split(x: Any, shapes: Sequence[ops.Shape]) -> list[Any]:
        q, k, v = by_core.split(x, shapes)
        return [*paired.split(q, shapes[:1]), *paired.split(k, shapes[1:2]), v]

    return ops.Op(split, lambda arrays: by_core.join([paired.join([arrays[0]]), paired.join([arrays[1]]), arrays[2]]))


IGNORED = (
    r".*\.attn\.(bias|masked_bias|causal_mask|embed_positions)|.*attention\.(bias|masked_bias|rotary_emb\.inv_freq)"
)
TRANSFORMER: Rules = {
    "transformer.wte.weight": ("embed.table", ops.identity),
    **norm_rules("transformer.ln_f", "decoder.norm"),
    "lm_head.weight": ("head.table", ops.identity),
    "lm_head.bias": ("head.bias", ops.identity),
}
GPTJ: Rules = {
    **TRANSFORMER,
    **norm_rules(LAYER + "ln_1", "decoder.{}.shared_norm"),
    **linear_rules(LAYER + "attn.out_proj", "decoder.{}.mixer.out", ops.linear(2)),
    **linear_rules(LAYER + "mlp.fc_in", "decoder.{}.mlp.up"),
    **linear_rules(LAYER + "mlp.fc_out", "decoder.{}.mlp.down"),
}
GPT2_RULES: Rules = {
    **TRANSFORMER,
    "transformer.wpe.weight": ("decoder.position.table", ops.identity),
    **norm_rules(LAYER + "ln_1", "decoder.{}.mixer_norm"),
    **norm_rules(LAYER + "ln_2", "decoder.{}.mlp_norm"),
    **linear_rules(LAYER + "attn.c_attn", QKV, ops.concatenate(True, conv=True), ops.concatenate(False)),
    **linear_rules(LAYER + "attn.c_proj", "decoder.{}.mixer.out", ops.conv1d(2)),
    **linear_rules(LAYER + "mlp.c_fc", "decoder.{}.mlp.up", ops.conv1d()),
    **linear_rules(LAYER + "mlp.c_proj", "decoder.{}.mlp.down", ops.conv1d()),
}
NEOX_LAYER = "gpt_neox.layers.{}."
NEOX_RULES: Rules = {
    "gpt_neox.embed_in.weight": ("embed.table", ops.identity),
    **norm_rules("gpt_neox.final_layer_norm", "decoder.norm"),
    "embed_out.weight": ("head.table", ops.identity),
    **norm_rules(NEOX_LAYER + "input_layernorm", "decoder.{}.mixer_norm"),
    **norm_rules(NEOX_LAYER + "post_attention_layernorm", "decoder.{}.mlp_norm"),
    **linear_rules(NEOX_LAYER + "attention.dense", "decoder.{}.mixer.out", ops.linear(2)),
    **linear_rules(NEOX_LAYER + "mlp.dense_h_to_4h", "decoder.{}.mlp.up"),
    **linear_rules(NEOX_LAYER + "mlp.dense_4h_to_h", "decoder.{}.mlp.down"),
}
BLOOM_RULES: Rules = {
    "transformer.word_embeddings.weight": ("embed.table", ops.identity),
    **norm_rules("transformer.word_embeddings_layernorm", "decoder.input_norm"),
    **norm_rules("transformer.ln_f", "decoder.norm"),
    "lm_head.weight": ("head.table", ops.identity),
    **norm_rules(LAYER + "input_layernorm", "decoder.{}.mixer_norm"),
    **norm_rules(LAYER + "post_attention_layernorm", "decoder.{}.mlp_norm"),
    **linear_rules(LAYER + "self_attention.dense", "decoder.{}.mixer.out", ops.linear(2)),
    **linear_rules(LAYER + "mlp.dense_h_to_4h", "decoder.{}.mlp.up"),
    **linear_rules(LAYER + "mlp.dense_4h_to_h", "decoder.{}.mlp.down"),
}
PHI_LAYER = "model.layers.{}."
PHI_RULES: Rules = {
    "model.embed_tokens.weight": ("embed.table", ops.identity),
    **norm_rules("model.final_layernorm", "decoder.norm"),
    "lm_head.weight": ("head.table", ops.identity),
    "lm_head.bias": ("head.bias", ops.identity),
    **norm_rules(PHI_LAYER + "input_layernorm", "decoder.{}.shared_norm"),
    **linear_rules(PHI_LAYER + "self_attn.q_proj", QKV[0]),
    **linear_rules(PHI_LAYER + "self_attn.k_proj", QKV[1]),
    **linear_rules(PHI_LAYER + "self_attn.v_proj", QKV[2]),
    **linear_rules(PHI_LAYER + "self_attn.dense", "decoder.{}.mixer.out", ops.linear(2)),
    **linear_rules(PHI_LAYER + "mlp.fc1", "decoder.{}.mlp.up"),
    **linear_rules(PHI_LAYER + "mlp.fc2", "decoder.{}.mlp.down"),
}


def fused_qkv_rules(tensor: str, groups: int) -> Rules:
    """The rules of query, key and value in one Linear, group by group."""
    return linear_rules(tensor, QKV, ops.qkv_by_group(True, groups), ops.qkv_by_group(False, groups))


def gptj_table(model: nn.Module) -> Table:
    """The table of GPT-J."""
    rotated = rotary_rules(lambda name: f"{LAYER}attn.{name}_proj.weight", model.decoder.position.width)
    return Table(GPTJ | rotated, {r"lm_head\.weight": "transformer.wte.weight"}, IGNORED, "transformer.")


def codegen_table(model: nn.Module) -> Table:
    """The table of CodeGen."""
    fused_kernel = {LAYER + "attn.qkv_proj.weight": (kernel_paths(QKV), codegen_qkv(model.decoder.position.width))}
    return Table(GPTJ | fused_kernel, {r"lm_head\.weight": "transformer.wte.weight"}, IGNORED, "transformer.")


def neox_table(model: nn.Module) -> Table:
    """The table of GPT-NeoX."""
    qkv = fused_qkv_rules(NEOX_LAYER + "attention.query_key_value", get_path(model, f"{FIRST}.mixer.num_heads"))
    return Table(NEOX_RULES | qkv, {r"embed_out\.weight": "gpt_neox.embed_in.weight"}, IGNORED, "gpt_neox.")


def bloom_table(model: nn.Module) -> Table:
    """The table of BLOOM."""
    qkv = fused_qkv_rules(LAYER + "self_attention.query_key_value", get_path(model, f"{FIRST}.mixer.num_heads"))
    return Table(BLOOM_RULES | qkv, {r"lm_head\.weight": "transformer.word_embeddings.weight"}, IGNORED, "transformer.")


def gpt2_table(model: nn.Module) -> Table:
    """The table of GPT-2."""
    return Table(GPT2_RULES, {r"lm_head\.weight": "transformer.wte.weight"}, IGNORED, "transformer.")


PDROP = Rates("embd_pdrop", "resid_pdrop", "attn_pdrop")
FAMILIES = (
    Family(
        "gpt2",
        build_gpt2,
        GPT2
        | {
            "n_positions": "decoder.position.max_length",
            "scale_attn_weights": lambda model: get_path(model, f"{FIRST}.mixer.scale") is None,
        }
        | architecture_field("GPT2LMHeadModel"),
        gpt2_table,
        Rates("embd_pdrop", "resid_pdrop", "attn_pdrop", default=0.1, default_attention=0.1),
    ),
    Family("gptj", build_gptj, GPT2 | ROTARY_FIELDS | architecture_field("GPTJForCausalLM"), gptj_table, PDROP),
    Family(
        "codegen", build_gptj, GPT2 | ROTARY_FIELDS | architecture_field("CodeGenForCausalLM"), codegen_table, PDROP
    ),
    Family(
        "gpt_neox",
        build_gpt_neox,
        NEOX
        | rope_fields("decoder.position")
        | {
            "attention_bias": f"{FIRST}.mixer.use_bias",
            "rotary_emb_base": "decoder.position.base",  # the old name of rope_theta, not read by transformers 5
            "rotary_pct": rotary_share,
            "use_parallel_residual": lambda model: get_path(model, FIRST).placement.__name__ == "parallel_own_norms",
        }
        | architecture_field("GPTNeoXForCausalLM"),
        neox_table,
        Rates("hidden_dropout", "hidden_dropout"),
    ),
    Family(
        "phi",
        build_phi,
        NEOX
        | rope_fields("decoder.position")
        | {
            "num_key_value_heads": lambda model: count_kv_heads(get_path(model, f"{FIRST}.mixer")),
            "partial_rotary_factor": rotary_share,
        }
        | architecture_field("PhiForCausalLM"),
        lambda model: Table(PHI_RULES, ignored=r".*rotary_emb\.inv_freq", prefix="model."),
        Rates("embd_pdrop", "resid_pdrop"),
    ),
    Family(
        "bloom",
        build_bloom,
        BLOOM | architecture_field("BloomForCausalLM"),
        bloom_table,
        Rates(residual="hidden_dropout"),
    ),
)

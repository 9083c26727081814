"""GPT-2 and its kin: GPT-J, CodeGen, GPT-NeoX, Phi, BLOOM."""

import functools
from collections.abc import Callable

from flax import linen as nn

from t5x_like.hf import ops
from t5x_like.hf.family import Family
from t5x_like.hf.fields import Fields, activation_name
from t5x_like.hf.llama import kv_heads
from t5x_like.hf.modules import Describe, at, constant, kind, stacked, unstacked
from t5x_like.hf.rope import rope, rope_fields, rotary_width
from t5x_like.hf.table import Rules, Table, norm, weights
from t5x_like.models import architectures, attention, blocks, heads, linear, mlp, norms, positions

FIRST = "decoder.layers.0"
QKV = [f"decoder.{{}}.mixer.{name}" for name in ("query", "key", "value")]
H = "transformer.h.{}."
CORES = 4  # of the TPU slices that CodeGen was trained on; its fused matrix is cut for them


def decoder(embed: nn.Module, layers: list[nn.Module], norm: nn.Module | None, head: nn.Module, **options):
    return architectures.DecoderOnly(embed, stacked(layers, norm=norm, **options), head)


def head_of(f: Fields, tied: bool, bias: bool = False) -> nn.Module:
    return heads.Tied(use_bias=bias) if f("tie_word_embeddings", tied) else heads.Untied(use_bias=bias)


def build_gpt2(f: Fields) -> nn.Module:
    width, num_heads, epsilon = f("n_embd"), f("n_head"), f("layer_norm_epsilon", 1e-5)
    scale = None if f("scale_attn_weights", True) else 1.0
    f.only("scale_attn_by_inverse_layer_idx", False)
    f.only("add_cross_attention", False)
    f.unused("reorder_and_upcast_attn", "n_ctx", "n_special", "predict_special_tokens")

    def layer() -> nn.Module:
        mixer = attention.SelfAttention(num_heads, width // num_heads, use_bias=True, scale=scale)
        return blocks.Block(mixer=mixer, mlp=plain(f, width), norm=norms.LayerNorm(epsilon))

    return decoder(
        linear.Embed(f("vocab_size"), width),
        [layer() for _ in range(f("n_layer"))],
        norms.LayerNorm(epsilon),
        head_of(f, True),
        position=positions.Learned(f("n_positions")),
    )


def plain(f: Fields, width: int) -> mlp.Mlp:
    """An MLP with biases, by GPT-2's fields."""
    return mlp.Mlp(f("n_inner", 4 * width), f.activation("activation_function", "gelu_new"), use_bias=True)


def build_gptj(f: Fields) -> nn.Module:
    """GPT-J and CodeGen: partial rotary positions, attention and MLP side by side behind one norm."""
    width, num_heads, epsilon = f("n_embd"), f("n_head"), f("layer_norm_epsilon", 1e-5)
    f.unused("n_positions", "n_ctx")
    for name in ("rotary", "scale_attn_weights"):
        f.only(name, True)

    def layer() -> nn.Module:
        mixer = attention.SelfAttention(num_heads, width // num_heads)
        norm = norms.LayerNorm(epsilon)
        return blocks.Block(mixer=mixer, mlp=plain(f, width), norm=norm, placement=blocks.parallel)

    return decoder(
        linear.Embed(f("vocab_size"), width),
        [layer() for _ in range(f("n_layer"))],
        norms.LayerNorm(epsilon),
        head_of(f, False, bias=True),
        position=positions.Rope(f("rotary_dim")),
    )


def build_gpt_neox(f: Fields) -> nn.Module:
    width, num_heads, epsilon = f("hidden_size"), f("num_attention_heads"), f("layer_norm_eps", 1e-5)
    placement = blocks.parallel_own_norms if f("use_parallel_residual", True) else blocks.pre
    head_dim, bias = width // num_heads, f("attention_bias", True)
    base = f("rotary_emb_base", 1e4) if f("rope_parameters", None) else f.either("rope_theta", "rotary_emb_base", 1e4)
    f.unused("max_position_embeddings", "partial_rotary_factor")

    def layer() -> nn.Module:
        mixer = attention.SelfAttention(num_heads, head_dim, use_bias=bias)
        dense = mlp.Mlp(f("intermediate_size"), f.activation("hidden_act", "gelu"), use_bias=True)
        return blocks.Block(mixer=mixer, mlp=dense, norm=norms.LayerNorm(epsilon), placement=placement)

    return decoder(
        linear.Embed(f("vocab_size"), width),
        [layer() for _ in range(f("num_hidden_layers"))],
        norms.LayerNorm(epsilon),
        head_of(f, False),
        position=rope(f, rotary_width(f, head_dim, "rotary_pct", 0.25), base),
    )


def build_phi(f: Fields) -> nn.Module:
    width, num_heads, epsilon = f("hidden_size"), f("num_attention_heads"), f("layer_norm_eps", 1e-5)
    head_dim = width // num_heads
    f.only("qk_layernorm", False)
    f.unused("max_position_embeddings")

    def layer() -> nn.Module:
        mixer = attention.SelfAttention(num_heads, head_dim, f("num_key_value_heads", num_heads), use_bias=True)
        dense = mlp.Mlp(f("intermediate_size"), f.activation("hidden_act", "gelu_new"), use_bias=True)
        return blocks.Block(mixer=mixer, mlp=dense, norm=norms.LayerNorm(epsilon), placement=blocks.parallel)

    return decoder(
        linear.Embed(f("vocab_size"), width),
        [layer() for _ in range(f("num_hidden_layers"))],
        norms.LayerNorm(epsilon),
        head_of(f, False, bias=True),
        position=rope(f, rotary_width(f, head_dim, "partial_rotary_factor", 0.5)),
    )


def build_bloom(f: Fields) -> nn.Module:
    width, epsilon = f.either("hidden_size", "n_embed"), f("layer_norm_epsilon", 1e-5)
    num_heads, count = f.either("n_head", "num_attention_heads"), f.either("n_layer", "num_hidden_layers")
    f.only("apply_residual_connection_post_layernorm", False)
    f.unused("slow_but_exact", "attention_softmax_in_fp32", "masked_softmax_fusion", "bias_dropout_fusion")
    f.unused("offset_alibi", "seq_length", "skip_bias_add", "skip_bias_add_qkv", "unk_token_id")
    f.only("n_inner", 4 * width)

    def layer() -> nn.Module:
        mixer = attention.SelfAttention(num_heads, width // num_heads, use_bias=True)
        dense = mlp.Mlp(4 * width, mlp.gelu_tanh, use_bias=True)
        return blocks.Block(mixer=mixer, mlp=dense, norm=norms.LayerNorm(epsilon))

    return decoder(
        linear.Embed(f("vocab_size"), width),
        [layer() for _ in range(count)],
        norms.LayerNorm(epsilon),
        head_of(f, True),
        position=positions.Alibi(num_heads),
        input_norm=norms.LayerNorm(epsilon),
    )


def shape(width: str, layers: str, count: str, epsilon: str, hidden: str | None, activation: str | None) -> Describe:
    """The fields of sizes, which every family calls differently."""
    fields: Describe = {
        "vocab_size": "embed.vocab_size",
        width: "embed.width",
        layers: lambda model: len(unstacked(model.decoder)),
        count: f"{FIRST}.mixer.num_heads",
        epsilon: "decoder.norm.epsilon",
        "tie_word_embeddings": lambda model: kind(model.head) == "Tied",
    }
    if hidden:
        fields[hidden] = f"{FIRST}.mlp.hidden_dim"
    if activation:
        fields[activation] = lambda model: activation_name(at(model, FIRST).mlp.activation)
    return fields


GPT2 = shape("n_embd", "n_layer", "n_head", "layer_norm_epsilon", "n_inner", "activation_function")
NEOX = shape(
    "hidden_size", "num_hidden_layers", "num_attention_heads", "layer_norm_eps", "intermediate_size", "hidden_act"
)
BLOOM = shape("hidden_size", "n_layer", "n_head", "layer_norm_epsilon", None, None)
ROTATED: Describe = {"rotary_dim": "decoder.position.width"}


def share(model: nn.Module) -> float:
    return model.decoder.position.width / at(model, f"{FIRST}.mixer.head_dim")


def named(architecture: str) -> Describe:
    return {"architectures": constant([architecture])}


def rotated_kernels(theirs: Callable[[str], str], width: int) -> Rules:
    """GPT-J's queries and keys, whose rotary pairs are neighbours."""
    paired = ops.linear().then(ops.unzipped(width))
    return {
        theirs("q"): ("decoder.{}.mixer.query.kernel", paired),
        theirs("k"): ("decoder.{}.mixer.key.kernel", paired),
        theirs("v"): ("decoder.{}.mixer.value.kernel", ops.linear()),
    }


def kernels(names: list[str]) -> tuple[str, ...]:
    return tuple(f"{name}.kernel" for name in names)


@functools.cache
def codegen_qkv(width: int) -> ops.Op:
    """CodeGen's fused matrix: cut by cores, queries and keys with neighbouring rotary pairs."""
    cut, paired = ops.by_core(CORES), ops.unzipped(width)

    def split(x, shapes):
        q, k, v = cut.split(x, shapes)
        return [*paired.split(q, shapes[:1]), *paired.split(k, shapes[1:2]), v]

    return ops.Op(split, lambda arrays: cut.join([paired.join([arrays[0]]), paired.join([arrays[1]]), arrays[2]]))


MASKS = r".*\.attn\.(bias|masked_bias|causal_mask|embed_positions)|.*attention\.(bias|masked_bias|rotary_emb\.inv_freq)"
TRANSFORMER: Rules = {
    "transformer.wte.weight": ("embed.table", ops.same),
    **norm("transformer.ln_f", "decoder.norm"),
    "lm_head.weight": ("head.table", ops.same),
    "lm_head.bias": ("head.bias", ops.same),
}
GPTJ: Rules = {
    **TRANSFORMER,
    **norm(H + "ln_1", "decoder.{}.shared_norm"),
    **weights(H + "attn.out_proj", "decoder.{}.mixer.out", ops.linear(2)),
    **weights(H + "mlp.fc_in", "decoder.{}.mlp.up"),
    **weights(H + "mlp.fc_out", "decoder.{}.mlp.down"),
}
GPT2_RULES: Rules = {
    **TRANSFORMER,
    "transformer.wpe.weight": ("decoder.position.table", ops.same),
    **norm(H + "ln_1", "decoder.{}.mixer_norm"),
    **norm(H + "ln_2", "decoder.{}.mlp_norm"),
    **weights(H + "attn.c_attn", QKV, ops.side_by_side(True, conv=True), ops.side_by_side(False)),
    **weights(H + "attn.c_proj", "decoder.{}.mixer.out", ops.conv1d(2)),
    **weights(H + "mlp.c_fc", "decoder.{}.mlp.up", ops.conv1d()),
    **weights(H + "mlp.c_proj", "decoder.{}.mlp.down", ops.conv1d()),
}
NEOX_LAYER = "gpt_neox.layers.{}."
NEOX_RULES: Rules = {
    "gpt_neox.embed_in.weight": ("embed.table", ops.same),
    **norm("gpt_neox.final_layer_norm", "decoder.norm"),
    "embed_out.weight": ("head.table", ops.same),
    **norm(NEOX_LAYER + "input_layernorm", "decoder.{}.mixer_norm"),
    **norm(NEOX_LAYER + "post_attention_layernorm", "decoder.{}.mlp_norm"),
    **weights(NEOX_LAYER + "attention.dense", "decoder.{}.mixer.out", ops.linear(2)),
    **weights(NEOX_LAYER + "mlp.dense_h_to_4h", "decoder.{}.mlp.up"),
    **weights(NEOX_LAYER + "mlp.dense_4h_to_h", "decoder.{}.mlp.down"),
}
BLOOM_RULES: Rules = {
    "transformer.word_embeddings.weight": ("embed.table", ops.same),
    **norm("transformer.word_embeddings_layernorm", "decoder.input_norm"),
    **norm("transformer.ln_f", "decoder.norm"),
    "lm_head.weight": ("head.table", ops.same),
    **norm(H + "input_layernorm", "decoder.{}.mixer_norm"),
    **norm(H + "post_attention_layernorm", "decoder.{}.mlp_norm"),
    **weights(H + "self_attention.dense", "decoder.{}.mixer.out", ops.linear(2)),
    **weights(H + "mlp.dense_h_to_4h", "decoder.{}.mlp.up"),
    **weights(H + "mlp.dense_4h_to_h", "decoder.{}.mlp.down"),
}
PHI_LAYER = "model.layers.{}."
PHI_RULES: Rules = {
    "model.embed_tokens.weight": ("embed.table", ops.same),
    **norm("model.final_layernorm", "decoder.norm"),
    "lm_head.weight": ("head.table", ops.same),
    "lm_head.bias": ("head.bias", ops.same),
    **norm(PHI_LAYER + "input_layernorm", "decoder.{}.shared_norm"),
    **weights(PHI_LAYER + "self_attn.q_proj", QKV[0]),
    **weights(PHI_LAYER + "self_attn.k_proj", QKV[1]),
    **weights(PHI_LAYER + "self_attn.v_proj", QKV[2]),
    **weights(PHI_LAYER + "self_attn.dense", "decoder.{}.mixer.out", ops.linear(2)),
    **weights(PHI_LAYER + "mlp.fc1", "decoder.{}.mlp.up"),
    **weights(PHI_LAYER + "mlp.fc2", "decoder.{}.mlp.down"),
}


def fused(theirs: str, groups: int) -> Rules:
    """Query, key and value in one Linear, group by group."""
    return weights(theirs, QKV, ops.by_group(True, groups), ops.by_group(False, groups))


def gptj_table(model: nn.Module) -> Table:
    rotated = rotated_kernels(lambda name: f"{H}attn.{name}_proj.weight", model.decoder.position.width)
    return Table(GPTJ | rotated, {r"lm_head\.weight": "transformer.wte.weight"}, MASKS, "transformer.")


def codegen_table(model: nn.Module) -> Table:
    fused_kernel = {H + "attn.qkv_proj.weight": (kernels(QKV), codegen_qkv(model.decoder.position.width))}
    return Table(GPTJ | fused_kernel, {r"lm_head\.weight": "transformer.wte.weight"}, MASKS, "transformer.")


def neox_table(model: nn.Module) -> Table:
    qkv = fused(NEOX_LAYER + "attention.query_key_value", at(model, f"{FIRST}.mixer.num_heads"))
    return Table(NEOX_RULES | qkv, {r"embed_out\.weight": "gpt_neox.embed_in.weight"}, MASKS, "gpt_neox.")


def bloom_table(model: nn.Module) -> Table:
    qkv = fused(H + "self_attention.query_key_value", at(model, f"{FIRST}.mixer.num_heads"))
    return Table(BLOOM_RULES | qkv, {r"lm_head\.weight": "transformer.word_embeddings.weight"}, MASKS, "transformer.")


def gpt2_table(model: nn.Module) -> Table:
    return Table(GPT2_RULES, {r"lm_head\.weight": "transformer.wte.weight"}, MASKS, "transformer.")


FAMILIES = (
    Family(
        "gpt2",
        build_gpt2,
        GPT2
        | {
            "n_positions": "decoder.position.max_length",
            "scale_attn_weights": lambda model: at(model, f"{FIRST}.mixer.scale") is None,
        }
        | named("GPT2LMHeadModel"),
        gpt2_table,
    ),
    Family("gptj", build_gptj, GPT2 | ROTATED | named("GPTJForCausalLM"), gptj_table),
    Family("codegen", build_gptj, GPT2 | ROTATED | named("CodeGenForCausalLM"), codegen_table),
    Family(
        "gpt_neox",
        build_gpt_neox,
        NEOX
        | rope_fields("decoder.position")
        | {
            "attention_bias": f"{FIRST}.mixer.use_bias",
            "rotary_emb_base": "decoder.position.base",  # its name for rope_theta, which transformers 5 does not read
            "rotary_pct": share,
            "use_parallel_residual": lambda model: at(model, FIRST).placement.__name__ == "parallel_own_norms",
        }
        | named("GPTNeoXForCausalLM"),
        neox_table,
    ),
    Family(
        "phi",
        build_phi,
        NEOX
        | rope_fields("decoder.position")
        | {
            "num_key_value_heads": lambda model: kv_heads(at(model, f"{FIRST}.mixer")),
            "partial_rotary_factor": share,
        }
        | named("PhiForCausalLM"),
        lambda model: Table(PHI_RULES, ignored=r".*rotary_emb\.inv_freq", prefix="model."),
    ),
    Family("bloom", build_bloom, BLOOM | named("BloomForCausalLM"), bloom_table),
)

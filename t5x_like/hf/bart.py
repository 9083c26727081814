"""BART: a post-norm encoder-decoder with learned positions from 2 on and a norm behind the embedding."""

from flax import linen as nn

from t5x_like.hf import ops
from t5x_like.hf.family import Family
from t5x_like.hf.fields import Fields, activation_name
from t5x_like.hf.modules import Describe, at, kind, stacked, unstacked
from t5x_like.hf.table import Rules, Table, norm, weights
from t5x_like.models import architectures, attention, blocks, heads, linear, masks, mlp, norms, positions


def build(f: Fields) -> nn.Module:
    width = f("d_model")
    for name, value in {"add_bias_logits": False, "add_final_layer_norm": False, "normalize_before": False}.items():
        f.only(name, value)
    for name, value in {"normalize_embedding": True, "static_position_embeddings": False}.items():
        f.only(name, value)
    f.only("tie_word_embeddings", True)
    f.only("extra_pos_embeddings", 2)
    f.only("replacing_rate", 0)
    f.unused("num_hidden_layers", "forced_bos_token_id", "force_bos_token_to_be_generated")

    def layer(side: str) -> nn.Module:
        num_heads = f(f"{side}_attention_heads")
        mask = masks.full if side == "encoder" else masks.causal
        cross = attention.CrossAttention(num_heads, width // num_heads, use_bias=True) if side == "decoder" else None
        return blocks.Block(
            mixer=attention.SelfAttention(num_heads, width // num_heads, use_bias=True, mask=mask),
            cross=cross,
            mlp=mlp.Mlp(f(f"{side}_ffn_dim"), f.activation("activation_function", "gelu"), use_bias=True),
            norm=norms.LayerNorm(),
            placement=blocks.post,
        )

    def tower(side: str) -> nn.Module:
        return stacked(
            [layer(side) for _ in range(f(f"{side}_layers"))],
            position=positions.Learned(f("max_position_embeddings"), offset=2),
            input_norm=norms.LayerNorm(),
            norm=None,
        )

    biased = f.holds("final_logits_bias") if f.names else True
    return architectures.EncoderDecoder(
        linear.Embed(f("vocab_size"), width, scale=None if f("scale_embedding", False) else 1.0),
        tower("encoder"),
        tower("decoder"),
        heads.Tied(use_bias=biased),
    )


def side(name: str) -> Describe:
    first = f"{name}.layers.0"
    return {
        f"{name}_layers": lambda model: len(unstacked(getattr(model, name))),
        f"{name}_attention_heads": f"{first}.mixer.num_heads",
        f"{name}_ffn_dim": f"{first}.mlp.hidden_dim",
    }


DESCRIBE: Describe = {
    "vocab_size": "embed.vocab_size",
    "d_model": "embed.width",
    "activation_function": lambda model: activation_name(at(model, "encoder.layers.0").mlp.activation),
    "max_position_embeddings": "encoder.position.max_length",
    "scale_embedding": lambda model: model.embed.scale is None,
    "tie_word_embeddings": lambda model: kind(model.head) == "Tied",
    "is_encoder_decoder": lambda model: True,
    "architectures": lambda model: ["BartForConditionalGeneration"],
    **side("encoder"),
    **side("decoder"),
}


def attending(theirs: str, ours: str) -> Rules:
    return {
        **weights(f"{theirs}.q_proj", f"{ours}.query"),
        **weights(f"{theirs}.k_proj", f"{ours}.key"),
        **weights(f"{theirs}.v_proj", f"{ours}.value"),
        **weights(f"{theirs}.out_proj", f"{ours}.out", ops.linear(2)),
    }


def tower(name: str) -> Rules:
    layer, ours = f"model.{name}.layers.{{}}.", f"{name}.{{}}."
    return {
        f"model.{name}.embed_positions.weight": (f"{name}.position.table", ops.same),
        **norm(f"model.{name}.layernorm_embedding", f"{name}.input_norm"),
        **attending(layer + "self_attn", ours + "mixer"),
        **norm(layer + "self_attn_layer_norm", ours + "mixer_norm"),
        **weights(layer + "fc1", ours + "mlp.up"),
        **weights(layer + "fc2", ours + "mlp.down"),
        **norm(layer + "final_layer_norm", ours + "mlp_norm"),
    }


RULES: Rules = {
    "model.shared.weight": ("embed.table", ops.same),
    "final_logits_bias": ("head.bias", ops.leading(1)),
    **tower("encoder"),
    **tower("decoder"),
    **attending("model.decoder.layers.{}.encoder_attn", "decoder.{}.cross"),
    **norm("model.decoder.layers.{}.encoder_attn_layer_norm", "decoder.{}.cross_norm"),
}
COPIES = {r"lm_head\.weight": "model.shared.weight", r"model\.\w+\.embed_tokens\.weight": "model.shared.weight"}
VERSIONS = r"(model\.)?(encoder|decoder)\.version"

FAMILIES = (Family("bart", build, DESCRIBE, lambda model: Table(RULES, COPIES, VERSIONS, "model.")),)

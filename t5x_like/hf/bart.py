"""BART: a post-norm encoder-decoder with learned positions that start at 2 and a norm after the embedding."""

from flax import linen as nn

from t5x_like.hf import ops
from t5x_like.hf.dropout import Rates
from t5x_like.hf.family import Family
from t5x_like.hf.fields import Fields, activation_name
from t5x_like.hf.modules import Description, class_name, get_path, stack_layers, unstack_layers
from t5x_like.hf.table import Rules, Table, linear_rules, norm_rules
from t5x_like.models import architectures, attention, blocks, heads, linear, masks, mlp, norms, positions


def build(f: Fields) -> nn.Module:
    """Builds BART."""
    width = f("d_model")
    for name, value in {"add_bias_logits": False, "add_final_layer_norm": False, "normalize_before": False}.items():
        f.expect(name, value)
    for name, value in {"normalize_embedding": True, "static_position_embeddings": False}.items():
        f.expect(name, value)
    f.expect("tie_word_embeddings", True)
    f.expect("extra_pos_embeddings", 2)
    f.expect("replacing_rate", 0)
    f.ignore("num_hidden_layers", "forced_bos_token_id", "force_bos_token_to_be_generated")

    def layer(side: str) -> nn.Module:
        num_heads = f(f"{side}_attention_heads")
        mask = masks.full if side == "encoder" else masks.causal
        head_dim = f.split("d_model", width, f"{side}_attention_heads", num_heads)
        cross = attention.CrossAttention(num_heads, head_dim, use_bias=True) if side == "decoder" else None
        return blocks.Block(
            mixer=attention.SelfAttention(num_heads, head_dim, use_bias=True, mask=mask),
            cross=cross,
            mlp=mlp.Mlp(f(f"{side}_ffn_dim"), f.activation("activation_function", "gelu"), use_bias=True),
            norm=norms.LayerNorm(),
            placement=blocks.post,
        )

    def tower(side: str) -> nn.Module:
        return stack_layers(
            [layer(side) for _ in range(f.count(f"{side}_layers"))],
            position=positions.Learned(f("max_position_embeddings"), offset=2),
            input_norm=norms.LayerNorm(),
            norm=None,
        )

    biased = f.has_tensor("final_logits_bias") if f.names else True
    return architectures.EncoderDecoder(
        linear.Embed(f("vocab_size"), width, scale=None if f("scale_embedding", False) else 1.0),
        tower("encoder"),
        tower("decoder"),
        heads.Tied(use_bias=biased),
    )


def side_fields(name: str) -> Description:
    """The fields of the encoder or of the decoder."""
    first = f"{name}.layers.0"
    return {
        f"{name}_layers": lambda model: len(unstack_layers(getattr(model, name))),
        f"{name}_attention_heads": f"{first}.mixer.num_heads",
        f"{name}_ffn_dim": f"{first}.mlp.hidden_dim",
    }


DESCRIPTION: Description = {
    "vocab_size": "embed.vocab_size",
    "d_model": "embed.width",
    "activation_function": lambda model: activation_name(get_path(model, "encoder.layers.0").mlp.activation),
    "max_position_embeddings": "encoder.position.max_length",
    "scale_embedding": lambda model: model.embed.scale is None,
    "tie_word_embeddings": lambda model: class_name(model.head) == "Tied",
    "is_encoder_decoder": lambda model: True,
    "architectures": lambda model: ["BartForConditionalGeneration"],
    **side_fields("encoder"),
    **side_fields("decoder"),
}


def attention_rules(tensor: str, param: str) -> Rules:
    """The rules of one attention."""
    return {
        **linear_rules(f"{tensor}.q_proj", f"{param}.query"),
        **linear_rules(f"{tensor}.k_proj", f"{param}.key"),
        **linear_rules(f"{tensor}.v_proj", f"{param}.value"),
        **linear_rules(f"{tensor}.out_proj", f"{param}.out", ops.linear(2)),
    }


def tower_rules(name: str) -> Rules:
    """The rules of the encoder or of the decoder."""
    layer, param = f"model.{name}.layers.{{}}.", f"{name}.{{}}."
    return {
        f"model.{name}.embed_positions.weight": (f"{name}.position.table", ops.identity),
        **norm_rules(f"model.{name}.layernorm_embedding", f"{name}.input_norm"),
        **attention_rules(layer + "self_attn", param + "mixer"),
        **norm_rules(layer + "self_attn_layer_norm", param + "mixer_norm"),
        **linear_rules(layer + "fc1", param + "mlp.up"),
        **linear_rules(layer + "fc2", param + "mlp.down"),
        **norm_rules(layer + "final_layer_norm", param + "mlp_norm"),
    }


RULES: Rules = {
    "model.shared.weight": ("embed.table", ops.identity),
    "final_logits_bias": ("head.bias", ops.leading_ones(1)),
    **tower_rules("encoder"),
    **tower_rules("decoder"),
    **attention_rules("model.decoder.layers.{}.encoder_attn", "decoder.{}.cross"),
    **norm_rules("model.decoder.layers.{}.encoder_attn_layer_norm", "decoder.{}.cross_norm"),
}
ALIASES = {r"lm_head\.weight": "model.shared.weight", r"model\.\w+\.embed_tokens\.weight": "model.shared.weight"}
IGNORED = r"(model\.)?(encoder|decoder)\.version"

RATES = Rates("dropout", "dropout", hidden="activation_dropout", default=0.1)
FAMILIES = (Family("bart", build, DESCRIPTION, lambda model: Table(RULES, ALIASES, IGNORED, "model."), RATES),)

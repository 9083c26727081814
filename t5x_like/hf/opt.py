"""OPT (and Galactica, of the same model_type): learned positions from 2; the 350M is post-norm with a narrower table."""

from flax import linen as nn

from t5x_like.hf import ops
from t5x_like.hf.dropout import Rates
from t5x_like.hf.family import Family
from t5x_like.hf.fields import Fields, activation_name
from t5x_like.hf.gpt import FIRST, architecture_field, build_decoder, build_head
from t5x_like.hf.modules import Description, class_name, get_path, unstack_layers
from t5x_like.hf.table import Rules, Table, linear_rules, norm_rules
from t5x_like.models import attention, blocks, heads, linear, mlp, norms, positions

LAYER = "model.decoder.layers.{}."


def build(f: Fields) -> nn.Module:
    """Builds OPT."""
    width, num_heads, bias = f("hidden_size"), f("num_attention_heads"), f("enable_bias", True)
    embed_width, pre_norm = f("word_embed_proj_dim", width), f("do_layer_norm_before", True)
    f.expect("_remove_final_layer_norm", False)
    for name in ("layer_norm_elementwise_affine", "learned_embeddings", "output_projection"):
        f.expect(name, True)
    f.expect("scale_embeddings", False)
    head_dim = f.split("hidden_size", width, "num_attention_heads", num_heads)

    def layer() -> nn.Module:
        mixer = attention.SelfAttention(num_heads, head_dim, use_bias=bias)
        dense = mlp.Mlp(f("ffn_dim"), f.activation("activation_function", "relu"), use_bias=bias)
        placement = blocks.pre if pre_norm else blocks.post
        return blocks.Block(mixer=mixer, mlp=dense, norm=norms.LayerNorm(), placement=placement)

    embed, head = linear.Embed(f("vocab_size"), embed_width), build_head(f, True)
    return build_decoder(
        embed if embed_width == width else linear.Projected(embed, width),
        [layer() for _ in range(f.count("num_hidden_layers"))],
        norms.LayerNorm() if pre_norm else None,
        head if embed_width == width else heads.Projected(head, embed_width),
        position=positions.Learned(f("max_position_embeddings"), offset=2),
    )


def inner_embed(model: nn.Module) -> nn.Module:
    """The embedding, without its projection."""
    return model.embed.embed if class_name(model.embed) == "Projected" else model.embed


def inner_head(model: nn.Module) -> nn.Module:
    """The head, without its projection."""
    return model.head.head if class_name(model.head) == "Projected" else model.head


DESCRIPTION: Description = {
    "vocab_size": lambda model: inner_embed(model).vocab_size,
    "word_embed_proj_dim": lambda model: inner_embed(model).width,
    "hidden_size": "embed.width",
    "num_hidden_layers": lambda model: len(unstack_layers(model.decoder)),
    "num_attention_heads": f"{FIRST}.mixer.num_heads",
    "ffn_dim": f"{FIRST}.mlp.hidden_dim",
    "activation_function": lambda model: activation_name(get_path(model, FIRST).mlp.activation),
    "enable_bias": f"{FIRST}.mixer.use_bias",
    "do_layer_norm_before": lambda model: get_path(model, FIRST).placement.__name__ == "pre",
    "max_position_embeddings": "decoder.position.max_length",
    "tie_word_embeddings": lambda model: class_name(inner_head(model)) == "Tied",
}
RULES: Rules = {
    "model.decoder.embed_tokens.weight": ("embed.table", ops.identity),
    "model.decoder.project_in.weight": ("embed.projection.kernel", ops.linear()),
    "model.decoder.project_out.weight": ("head.projection.kernel", ops.linear()),
    "model.decoder.embed_positions.weight": ("decoder.position.table", ops.identity),
    **norm_rules("model.decoder.final_layer_norm", "decoder.norm"),
    "lm_head.weight": ("head.table", ops.identity),
    **linear_rules(LAYER + "self_attn.q_proj", "decoder.{}.mixer.query"),
    **linear_rules(LAYER + "self_attn.k_proj", "decoder.{}.mixer.key"),
    **linear_rules(LAYER + "self_attn.v_proj", "decoder.{}.mixer.value"),
    **linear_rules(LAYER + "self_attn.out_proj", "decoder.{}.mixer.out", ops.linear(2)),
    **norm_rules(LAYER + "self_attn_layer_norm", "decoder.{}.mixer_norm"),
    **linear_rules(LAYER + "fc1", "decoder.{}.mlp.up"),
    **linear_rules(LAYER + "fc2", "decoder.{}.mlp.down"),
    **norm_rules(LAYER + "final_layer_norm", "decoder.{}.mlp_norm"),
}
PROJECTED_RULES: Rules = {
    "model.decoder.embed_tokens.weight": ("embed.embed.table", ops.identity),
    "lm_head.weight": ("head.head.table", ops.identity),
}


def make_table(model: nn.Module) -> Table:
    """OPT's table."""
    rules = RULES | (PROJECTED_RULES if class_name(model.embed) == "Projected" else {})
    return Table(rules, {r"lm_head\.weight": "model.decoder.embed_tokens.weight"}, prefix="model.")


RATES = Rates(residual="dropout", default=0.1)
FAMILIES = (Family("opt", build, DESCRIPTION | architecture_field("OPTForCausalLM"), make_table, RATES),)

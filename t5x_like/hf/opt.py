"""OPT (and Galactica, which comes as one): learned positions from 2 on; the 350M norms after and has a narrower table."""

from flax import linen as nn

from t5x_like.hf import ops
from t5x_like.hf.family import Family
from t5x_like.hf.fields import Fields, activation_name
from t5x_like.hf.gpt import FIRST, decoder, head_of, named
from t5x_like.hf.modules import Describe, at, kind, unstacked
from t5x_like.hf.table import Table, norm, weights
from t5x_like.models import attention, blocks, heads, linear, mlp, norms, positions

LAYER = "model.decoder.layers.{}."


def build(f: Fields) -> nn.Module:
    width, num_heads, bias = f("hidden_size"), f("num_attention_heads"), f("enable_bias", True)
    narrow, before = f("word_embed_proj_dim", width), f("do_layer_norm_before", True)
    f.only("_remove_final_layer_norm", False)
    for name in ("layer_norm_elementwise_affine", "learned_embeddings", "output_projection"):
        f.only(name, True)
    f.only("scale_embeddings", False)

    def layer() -> nn.Module:
        mixer = attention.SelfAttention(num_heads, width // num_heads, use_bias=bias)
        dense = mlp.Mlp(f("ffn_dim"), f.activation("activation_function", "relu"), use_bias=bias)
        placement = blocks.pre if before else blocks.post
        return blocks.Block(mixer=mixer, mlp=dense, norm=norms.LayerNorm(), placement=placement)

    embed, head = linear.Embed(f("vocab_size"), narrow), head_of(f, True)
    return decoder(
        embed if narrow == width else linear.Projected(embed, width),
        [layer() for _ in range(f("num_hidden_layers"))],
        norms.LayerNorm() if before else None,
        head if narrow == width else heads.Projected(head, narrow),
        position=positions.Learned(f("max_position_embeddings"), offset=2),
    )


def table_of(model: nn.Module) -> nn.Module:
    return model.embed.embed if kind(model.embed) == "Projected" else model.embed


def head(model: nn.Module) -> nn.Module:
    return model.head.head if kind(model.head) == "Projected" else model.head


DESCRIBE: Describe = {
    "vocab_size": lambda model: table_of(model).vocab_size,
    "word_embed_proj_dim": lambda model: table_of(model).width,
    "hidden_size": "embed.width",
    "num_hidden_layers": lambda model: len(unstacked(model.decoder)),
    "num_attention_heads": f"{FIRST}.mixer.num_heads",
    "ffn_dim": f"{FIRST}.mlp.hidden_dim",
    "activation_function": lambda model: activation_name(at(model, FIRST).mlp.activation),
    "enable_bias": f"{FIRST}.mixer.use_bias",
    "do_layer_norm_before": lambda model: at(model, FIRST).placement.__name__ == "pre",
    "max_position_embeddings": "decoder.position.max_length",
    "tie_word_embeddings": lambda model: kind(head(model)) == "Tied",
}
RULES = {
    "model.decoder.embed_tokens.weight": ("embed.table", ops.same),
    "model.decoder.project_in.weight": ("embed.projection.kernel", ops.linear()),
    "model.decoder.project_out.weight": ("head.projection.kernel", ops.linear()),
    "model.decoder.embed_positions.weight": ("decoder.position.table", ops.same),
    **norm("model.decoder.final_layer_norm", "decoder.norm"),
    "lm_head.weight": ("head.table", ops.same),
    **weights(LAYER + "self_attn.q_proj", "decoder.{}.mixer.query"),
    **weights(LAYER + "self_attn.k_proj", "decoder.{}.mixer.key"),
    **weights(LAYER + "self_attn.v_proj", "decoder.{}.mixer.value"),
    **weights(LAYER + "self_attn.out_proj", "decoder.{}.mixer.out", ops.linear(2)),
    **norm(LAYER + "self_attn_layer_norm", "decoder.{}.mixer_norm"),
    **weights(LAYER + "fc1", "decoder.{}.mlp.up"),
    **weights(LAYER + "fc2", "decoder.{}.mlp.down"),
    **norm(LAYER + "final_layer_norm", "decoder.{}.mlp_norm"),
}
NARROW = {
    "model.decoder.embed_tokens.weight": ("embed.embed.table", ops.same),
    "lm_head.weight": ("head.head.table", ops.same),
}


def table(model: nn.Module) -> Table:
    rules = RULES | (NARROW if kind(model.embed) == "Projected" else {})
    return Table(rules, {r"lm_head\.weight": "model.decoder.embed_tokens.weight"}, prefix="model.")


FAMILIES = (Family("opt", build, DESCRIBE | named("OPTForCausalLM"), table),)

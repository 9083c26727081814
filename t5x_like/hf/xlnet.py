"""XLNet: two-stream attention with relative positions (Transformer-XL) and relative segments."""

from flax import linen as nn

from t5x_like.hf import ops
from t5x_like.hf.dropout import Rates
from t5x_like.hf.family import Family
from t5x_like.hf.fields import Fields, activation_name
from t5x_like.hf.modules import Description, class_name, get_path, stack_layers, unstack_layers
from t5x_like.hf.table import Rules, Table, linear_rules, norm_rules
from t5x_like.models import architectures, blocks, heads, linear, masks, mlp, norms, transformer_xl

MAX_WIDTH = 2**20  # its relative positions make an array of the width
FIRST = "encoder.layers.0"


def build(f: Fields) -> nn.Module:
    """Builds XLNet."""
    width, num_heads, epsilon = f("d_model", high=MAX_WIDTH), f("n_head"), f.epsilon("layer_norm_eps", 1e-12)
    f.expect("attn_type", "bi")
    f.expect("untie_r", True)
    f.expect("clamp_len", -1, 0)
    for name in ("same_length", "bi_data"):
        f.expect(name, False)
    f.expect("tie_word_embeddings", True)
    f.ignore(
        "mem_len", "reuse_len", "use_mems_eval", "use_mems_train", "start_n_top", "end_n_top", "max_position_embeddings"
    )

    def layer() -> nn.Module:
        head_dim = f.optional("d_head", 1) or f.split("d_model", width, "n_head", num_heads)
        mixer = transformer_xl.RelativeAttention(num_heads, head_dim, mask=masks.permuted, segment_bias=True)
        dense = mlp.Mlp(f("d_inner"), f.activation("ff_activation", "gelu"), use_bias=True)
        return blocks.Block(mixer=mixer, mlp=dense, norm=norms.LayerNorm(epsilon), placement=blocks.post)

    biased = f.has_tensor("lm_loss") if f.names else True
    return architectures.TwoStream(
        linear.Embed(f("vocab_size"), width),
        stack_layers([layer() for _ in range(f.count("n_layer"))], norm=None),
        heads.Tied(use_bias=biased),
    )


DESCRIPTION: Description = {
    "vocab_size": "embed.vocab_size",
    "d_model": "embed.width",
    "n_layer": lambda model: len(unstack_layers(model.encoder)),
    "n_head": f"{FIRST}.mixer.num_heads",
    "d_head": f"{FIRST}.mixer.head_dim",
    "d_inner": f"{FIRST}.mlp.hidden_dim",
    "ff_activation": lambda model: activation_name(get_path(model, FIRST).mlp.activation),
    "layer_norm_eps": lambda model: get_path(model, FIRST).norm.epsilon,
    "tie_word_embeddings": lambda model: class_name(model.head) == "Tied",
    "attn_type": lambda model: "bi",
    "untie_r": lambda model: True,
    "architectures": lambda model: ["XLNetLMHeadModel"],
}
LAYER, ATTENTION = "transformer.layer.{}.", "transformer.layer.{}.rel_attn."
RULES: Rules = {
    "transformer.word_embedding.weight": ("embed.table", ops.identity),
    "transformer.mask_emb": ("mask", ops.leading_ones(2)),
    "lm_loss.bias": ("head.bias", ops.identity),
    ATTENTION + "q": ("encoder.{}.mixer.query.kernel", ops.identity),
    ATTENTION + "k": ("encoder.{}.mixer.key.kernel", ops.identity),
    ATTENTION + "v": ("encoder.{}.mixer.value.kernel", ops.identity),
    ATTENTION + "r": ("encoder.{}.mixer.relative.kernel", ops.identity),
    ATTENTION + "o": ("encoder.{}.mixer.out.kernel", ops.permute(1, 2, 0)),
    ATTENTION + "r_w_bias": ("encoder.{}.mixer.content_bias", ops.identity),
    ATTENTION + "r_r_bias": ("encoder.{}.mixer.distance_bias", ops.identity),
    ATTENTION + "r_s_bias": ("encoder.{}.mixer.type_bias", ops.identity),
    ATTENTION + "seg_embed": ("encoder.{}.mixer.type_table", ops.identity),
    **norm_rules(ATTENTION + "layer_norm", "encoder.{}.mixer_norm"),
    **linear_rules(LAYER + "ff.layer_1", "encoder.{}.mlp.up"),
    **linear_rules(LAYER + "ff.layer_2", "encoder.{}.mlp.down"),
    **norm_rules(LAYER + "ff.layer_norm", "encoder.{}.mlp_norm"),
}
ALIASES = {r"lm_loss\.weight": "transformer.word_embedding.weight"}

RATES = Rates("dropout", "dropout", "dropout", "dropout", "dropout", 0.1, 0.1)
FAMILIES = (Family("xlnet", build, DESCRIPTION, lambda model: Table(RULES, ALIASES, prefix="transformer."), RATES),)

"""Falcon: a fused matrix of queries, keys and values by group; attention and MLP in parallel or in sequence."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from t5x_like.hf import ops
from t5x_like.hf.dropout import Rates
from t5x_like.hf.family import Family
from t5x_like.hf.fields import Fields, activation_name
from t5x_like.hf.gpt import FIRST, LAYER, architecture_field, build_decoder, build_head, fused_qkv_rules
from t5x_like.hf.llama import count_kv_heads
from t5x_like.hf.modules import OMIT, Description, class_name, get_path, unstack_layers
from t5x_like.hf.rope import build_rope, rope_fields
from t5x_like.hf.table import Rules, Table, linear_rules, norm_rules
from t5x_like.models import attention, blocks, linear, mlp, norms, positions


def build(f: Fields) -> nn.Module:
    """Builds a Falcon."""
    width, num_heads = f("hidden_size"), f.either("num_attention_heads", "n_head")
    count = f.check_count("num_hidden_layers", f.either("num_hidden_layers", "n_layer"))
    head_dim, bias = f.split("hidden_size", width, "num_attention_heads", num_heads), f("bias", False)
    epsilon = f.epsilon("layer_norm_epsilon", 1e-5)
    alibi = f("alibi", False)
    f.expect("apply_residual_connection_post_layernorm", False)
    f.ignore("max_position_embeddings", "num_kv_heads", "ff_factor")
    if alibi:
        f.ignore("rope_theta", "rope_scaling", "rope_parameters")

    def layer() -> nn.Module:
        mixer = attention.SelfAttention(num_heads, head_dim, read_kv_heads(f, num_heads), use_bias=bias)
        dense = mlp.Mlp(f("ffn_hidden_size", 4 * width), f.activation("activation", "gelu"), use_bias=bias)
        norm = norms.LayerNorm(epsilon)
        return blocks.Block(mixer=mixer, mlp=dense, norm=norm, placement=read_placement(f))

    return build_decoder(
        linear.Embed(f("vocab_size"), width),
        [layer() for _ in range(count)],
        norms.LayerNorm(epsilon),
        build_head(f, True),
        position=positions.Alibi(num_heads, head_dim**-0.5, jnp.bfloat16) if alibi else build_rope(f, head_dim),
    )


def read_kv_heads(f: Fields, num_heads: int) -> int:
    """Returns the number of key/value heads: num_kv_heads in the new architecture, else one or `num_heads`."""
    if f("new_decoder_architecture", False):
        f.ignore("multi_query")
        return f.kv_heads(num_heads, "num_kv_heads")
    return 1 if f("multi_query", True) else num_heads


def read_placement(f: Fields) -> Callable:
    """Returns the placement of the sublayers: in parallel behind one norm or one norm each, or in sequence."""
    parallel, new = f("parallel_attn", True), f("new_decoder_architecture", False)
    norms_each = f("num_ln_in_parallel_attn", 2 if new else 1)
    if new and norms_each == 2:
        return blocks.parallel_own_norms
    return blocks.parallel if parallel else blocks.pre


def placement_name(model: nn.Module) -> str:
    """The name of the model's placement."""
    return get_path(model, FIRST).placement.__name__


def is_new_architecture(model: nn.Module) -> bool:
    """Whether the model needs the new architecture: grouped keys and values, or a norm for each sublayer."""
    mixer = get_path(model, f"{FIRST}.mixer")
    return placement_name(model) == "parallel_own_norms" or 1 < count_kv_heads(mixer) < mixer.num_heads


def position_fields() -> Description:
    """The fields of rotary positions, omitted with ALiBi."""

    def unless_alibi(field: str | Callable[[nn.Module], Any]) -> Callable[[nn.Module], Any]:
        value = field if callable(field) else lambda model: get_path(model, field)
        return lambda model: OMIT if class_name(model.decoder.position) == "Alibi" else value(model)

    return {name: unless_alibi(field) for name, field in rope_fields("decoder.position").items()}


DESCRIPTION: Description = {
    "vocab_size": "embed.vocab_size",
    "hidden_size": "embed.width",
    "num_hidden_layers": lambda model: len(unstack_layers(model.decoder)),
    "num_attention_heads": f"{FIRST}.mixer.num_heads",
    "num_kv_heads": lambda model: count_kv_heads(get_path(model, f"{FIRST}.mixer")),
    "multi_query": lambda model: count_kv_heads(get_path(model, f"{FIRST}.mixer")) == 1,
    "new_decoder_architecture": is_new_architecture,
    "parallel_attn": lambda model: placement_name(model) != "pre",
    "num_ln_in_parallel_attn": lambda model: 2 if placement_name(model) == "parallel_own_norms" else 1,
    "alibi": lambda model: class_name(model.decoder.position) == "Alibi",
    "bias": f"{FIRST}.mixer.use_bias",
    "layer_norm_epsilon": "decoder.norm.epsilon",
    "ffn_hidden_size": f"{FIRST}.mlp.hidden_dim",
    "activation": lambda model: activation_name(get_path(model, FIRST).mlp.activation),
    "tie_word_embeddings": lambda model: class_name(model.head) == "Tied",
    **position_fields(),
}
RULES: Rules = {
    "transformer.word_embeddings.weight": ("embed.table", ops.identity),
    **norm_rules("transformer.ln_f", "decoder.norm"),
    "lm_head.weight": ("head.table", ops.identity),
    **linear_rules(LAYER + "self_attention.dense", "decoder.{}.mixer.out", ops.linear(2)),
    **linear_rules(LAYER + "mlp.dense_h_to_4h", "decoder.{}.mlp.up"),
    **linear_rules(LAYER + "mlp.dense_4h_to_h", "decoder.{}.mlp.down"),
}
NORM_RULES: dict[str, Rules] = {
    "parallel": norm_rules(LAYER + "input_layernorm", "decoder.{}.shared_norm"),
    "parallel_own_norms": {
        **norm_rules(LAYER + "ln_attn", "decoder.{}.mixer_norm"),
        **norm_rules(LAYER + "ln_mlp", "decoder.{}.mlp_norm"),
    },
    "pre": {
        **norm_rules(LAYER + "input_layernorm", "decoder.{}.mixer_norm"),
        **norm_rules(LAYER + "post_attention_layernorm", "decoder.{}.mlp_norm"),
    },
}


def make_table(model: nn.Module) -> Table:
    """Falcon's table."""
    qkv = fused_qkv_rules(LAYER + "self_attention.query_key_value", count_kv_heads(get_path(model, f"{FIRST}.mixer")))
    copies = {r"lm_head\.weight": "transformer.word_embeddings.weight"}
    rules = RULES | NORM_RULES.get(placement_name(model), {}) | qkv
    return Table(rules, copies, r".*rotary_emb\.inv_freq", "transformer.")


RATES = Rates(residual="hidden_dropout")
FAMILIES = (Family("falcon", build, DESCRIPTION | architecture_field("FalconForCausalLM"), make_table, RATES),)

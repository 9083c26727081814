"""Falcon: one fused matrix for queries, keys and values by group, attention and MLP side by side or one after the other."""

import jax.numpy as jnp
from flax import linen as nn

from t5x_like.hf import ops
from t5x_like.hf.family import Family
from t5x_like.hf.fields import Fields, activation_name
from t5x_like.hf.gpt import FIRST, H, decoder, fused, head_of, named
from t5x_like.hf.llama import kv_heads
from t5x_like.hf.modules import OMIT, Describe, at, kind, unstacked
from t5x_like.hf.rope import rope, rope_fields
from t5x_like.hf.table import Rules, Table, norm, weights
from t5x_like.models import attention, blocks, linear, mlp, norms, positions


def build(f: Fields) -> nn.Module:
    width, num_heads = f("hidden_size"), f.either("num_attention_heads", "n_head")
    count = f.either("num_hidden_layers", "n_layer")
    head_dim, epsilon, bias = width // num_heads, f("layer_norm_epsilon", 1e-5), f("bias", False)
    alibi = f("alibi", False)
    f.only("apply_residual_connection_post_layernorm", False)
    f.unused("max_position_embeddings", "num_kv_heads", "ff_factor")
    if alibi:
        f.unused("rope_theta", "rope_scaling", "rope_parameters")

    def layer() -> nn.Module:
        mixer = attention.SelfAttention(num_heads, head_dim, groups_of(f, num_heads), use_bias=bias)
        dense = mlp.Mlp(f("ffn_hidden_size", 4 * width), f.activation("activation", "gelu"), use_bias=bias)
        norm = norms.LayerNorm(epsilon)
        return blocks.Block(mixer=mixer, mlp=dense, norm=norm, placement=placement_of(f))

    return decoder(
        linear.Embed(f("vocab_size"), width),
        [layer() for _ in range(count)],
        norms.LayerNorm(epsilon),
        head_of(f, True),
        position=positions.Alibi(num_heads, head_dim**-0.5, jnp.bfloat16) if alibi else rope(f, head_dim),
    )


def groups_of(f: Fields, num_heads: int) -> int:
    """Key/value heads: num_kv_heads in the new architecture, before it one or as many as query heads."""
    if f("new_decoder_architecture", False):
        f.unused("multi_query")
        return f("num_kv_heads", num_heads)
    return 1 if f("multi_query", True) else num_heads


def placement_of(f: Fields):
    """Both sublayers behind one norm or one each, or one after the other."""
    parallel, new = f("parallel_attn", True), f("new_decoder_architecture", False)
    norms_each = f("num_ln_in_parallel_attn", 2 if new else 1)
    if new and norms_each == 2:
        return blocks.parallel_own_norms
    return blocks.parallel if parallel else blocks.pre


def placement(model: nn.Module) -> str:
    return at(model, FIRST).placement.__name__


def is_new(model: nn.Module) -> bool:
    """Whether only the new architecture has this: grouped keys and values, or a norm for each sublayer."""
    mixer = at(model, f"{FIRST}.mixer")
    return placement(model) == "parallel_own_norms" or 1 < kv_heads(mixer) < mixer.num_heads


def position_fields() -> Describe:
    plain = rope_fields("decoder.position")

    def unless_alibi(how):
        value = how if callable(how) else lambda model: at(model, how)
        return lambda model: OMIT if kind(model.decoder.position) == "Alibi" else value(model)

    return {name: unless_alibi(how) for name, how in plain.items()}


DESCRIBE: Describe = {
    "vocab_size": "embed.vocab_size",
    "hidden_size": "embed.width",
    "num_hidden_layers": lambda model: len(unstacked(model.decoder)),
    "num_attention_heads": f"{FIRST}.mixer.num_heads",
    "num_kv_heads": lambda model: kv_heads(at(model, f"{FIRST}.mixer")),
    "multi_query": lambda model: kv_heads(at(model, f"{FIRST}.mixer")) == 1,
    "new_decoder_architecture": is_new,
    "parallel_attn": lambda model: placement(model) != "pre",
    "num_ln_in_parallel_attn": lambda model: 2 if placement(model) == "parallel_own_norms" else 1,
    "alibi": lambda model: kind(model.decoder.position) == "Alibi",
    "bias": f"{FIRST}.mixer.use_bias",
    "layer_norm_epsilon": "decoder.norm.epsilon",
    "ffn_hidden_size": f"{FIRST}.mlp.hidden_dim",
    "activation": lambda model: activation_name(at(model, FIRST).mlp.activation),
    "tie_word_embeddings": lambda model: kind(model.head) == "Tied",
    **position_fields(),
}
RULES: Rules = {
    "transformer.word_embeddings.weight": ("embed.table", ops.same),
    **norm("transformer.ln_f", "decoder.norm"),
    "lm_head.weight": ("head.table", ops.same),
    **weights(H + "self_attention.dense", "decoder.{}.mixer.out", ops.linear(2)),
    **weights(H + "mlp.dense_h_to_4h", "decoder.{}.mlp.up"),
    **weights(H + "mlp.dense_4h_to_h", "decoder.{}.mlp.down"),
}
NORMS = {
    "parallel": norm(H + "input_layernorm", "decoder.{}.shared_norm"),
    "parallel_own_norms": norm(H + "ln_attn", "decoder.{}.mixer_norm") | norm(H + "ln_mlp", "decoder.{}.mlp_norm"),
    "pre": norm(H + "input_layernorm", "decoder.{}.mixer_norm")
    | norm(H + "post_attention_layernorm", "decoder.{}.mlp_norm"),
}


def table(model: nn.Module) -> Table:
    qkv = fused(H + "self_attention.query_key_value", kv_heads(at(model, f"{FIRST}.mixer")))
    copies = {r"lm_head\.weight": "transformer.word_embeddings.weight"}
    rules = RULES | NORMS.get(placement(model), {}) | qkv
    return Table(rules, copies, r".*rotary_emb\.inv_freq", "transformer.")


FAMILIES = (Family("falcon", build, DESCRIBE | named("FalconForCausalLM"), table),)

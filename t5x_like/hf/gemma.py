"""Gemma 1, 2 and 3 (text): RMSNorm with 1 + scale, scaled embeddings, in later ones soft caps, windows and two rotary bases."""

from collections.abc import Callable
from typing import Any

from flax import linen as nn

from t5x_like.hf import llama, ops
from t5x_like.hf.family import Family
from t5x_like.hf.fields import Fields, activation_name
from t5x_like.hf.llama import causal_lm_field, count_kv_heads
from t5x_like.hf.modules import OMIT, Description, class_name, get_path, stack_layers, unstack_layers
from t5x_like.hf.rope import (
    build_rope,
    check_rotary,
    max_length_field,
    rope_fields,
    rope_from_parameters,
    scaling_fields,
)
from t5x_like.hf.table import Rules, Table, norm_rules
from t5x_like.hf.windows import read_masks
from t5x_like.models import architectures, attention, blocks, heads, linear, mlp, norms, positions

TANH_GELU = "gelu_pytorch_tanh"


def build_decoder(
    f: Fields,
    mask_of: Callable,
    placement: Callable,
    position: nn.Module | None,
    wrap: Callable = lambda block, mask: block,
    qk_norm: bool = False,
    scalar: float | None = None,
    soft_cap: float | None = None,
    cap: float | None = None,
) -> architectures.DecoderOnly:
    """Builds a Gemma. `wrap` may give a layer its own position encoding; scores are divided by sqrt(`scalar`)."""
    width, num_heads = f("hidden_size"), f("num_attention_heads")
    head_dim, activation = f("head_dim", 256), read_activation(f)

    def norm() -> norms.RMSNorm:
        return norms.RMSNorm(f.epsilon("rms_norm_eps", 1e-6), shift=1.0)

    def layer(i: int) -> nn.Module:
        mixer = attention.SelfAttention(
            num_heads,
            head_dim,
            f.kv_heads(num_heads),
            use_bias=f("attention_bias", False),
            scale=(scalar or head_dim) ** -0.5,
            soft_cap=soft_cap,
            qk_norm=norm() if qk_norm else None,
            mask=mask_of(i),
        )
        dense = mlp.Mlp(f("intermediate_size"), activation, gated=True)
        return wrap(blocks.Block(mixer=mixer, mlp=dense, norm=norm(), placement=placement), mixer.mask)

    f.ignore("max_position_embeddings")
    f.expect("use_bidirectional_attention", False)
    head = heads.Tied() if f("tie_word_embeddings", True) else heads.Untied()
    return architectures.DecoderOnly(
        linear.Embed(f("vocab_size"), width, scale=None),
        stack_layers([layer(i) for i in range(f.count("num_hidden_layers"))], position=position, norm=norm()),
        head if cap is None else heads.SoftCapped(head, cap),
    )


def read_activation(f: Fields) -> Callable:
    """Returns the activation: hidden_act in Gemma 1, where "gelu" is the tanh approximation, hidden_activation in later ones."""
    old = f.optional("hidden_act", "")
    old = TANH_GELU if old == "gelu" and f("model_type", like="") == "gemma" else old
    both = Fields({"hidden_activation": f.optional("hidden_activation", ""), "hidden_act": old}, f.where)
    name = both.either("hidden_activation", "hidden_act", TANH_GELU)
    return Fields({"hidden_act": name}, f.where).activation("hidden_act", TANH_GELU)


def build_gemma(f: Fields) -> nn.Module:
    """Builds Gemma 1."""
    return build_decoder(f, read_masks(f, lambda i: False, None), blocks.pre, build_rope(f, f("head_dim", 256)))


def build_gemma2(f: Fields) -> nn.Module:
    """Builds Gemma 2."""
    mask = read_masks(f, lambda i: i % 2 == 0, f("sliding_window", 4096))
    f.set_defaults(attn_logit_softcapping=50.0, final_logit_softcapping=30.0)
    caps = {"soft_cap": f.optional("attn_logit_softcapping", 50.0), "cap": f.optional("final_logit_softcapping", 30.0)}
    scalar = f("query_pre_attn_scalar", 256.0)
    return build_decoder(f, mask, blocks.sandwich, build_rope(f, f("head_dim", 256)), scalar=scalar, **caps)


def build_gemma3(f: Fields) -> nn.Module:
    """Builds Gemma 3."""
    every, head_dim = f("sliding_window_pattern", f("_sliding_window_pattern", 6)), f("head_dim", 256)
    mask = read_masks(f, lambda i: (i + 1) % every != 0, f("sliding_window", 4096))

    def own_rope(block: nn.Module, mask: Callable) -> blocks.Positioned:
        return blocks.Positioned(layer_rope(f, class_name(mask) == "Window", head_dim), block)

    f.expect("attn_logit_softcapping", None)
    scalar, cap = f("query_pre_attn_scalar", 256.0), f.optional("final_logit_softcapping", 30.0)
    return build_decoder(f, mask, blocks.sandwich, None, own_rope, qk_norm=True, scalar=scalar, cap=cap)


def layer_rope(f: Fields, local: bool, head_dim: int) -> positions.Rope:
    """Returns the rotary encoding of local layers, which has no scaling, or of global layers."""
    check_rotary(f, head_dim, head_dim)
    parameters = f.optional("rope_parameters", {})
    kinds = ("full_attention", "sliding_attention")
    if parameters is not None:
        if set(parameters) != set(kinds):
            raise ValueError(f"{f.where}: rope_parameters has {sorted(parameters)}, but needs {', '.join(kinds)}")
        return rope_from_parameters(f, parameters[kinds[local]], head_dim, 1e4 if local else 1e6)
    own = positions.Rope(head_dim, f.rotary_base("rope_local_base_freq", 1e4))
    return own if local else build_rope(f, head_dim, 1e6)


def first_layer(model: nn.Module, local: bool) -> Any:
    """The first layer with a window (`local`) or without one; the first of all if there is none."""
    layers = unstack_layers(model.decoder)
    return next((layer for layer in layers if is_local(layer) == local), layers[0])


def is_local(layer: nn.Module) -> bool:
    """Whether a layer has a window."""
    return class_name(inner_block(layer).mixer.mask) == "Window"


def inner_block(layer: nn.Module) -> nn.Module:
    """The block of a layer, without its own position encoding."""
    return layer.block if class_name(layer) == "Positioned" else layer


def inner_head(model: nn.Module) -> nn.Module:
    """The head, without its soft cap."""
    return model.head.head if class_name(model.head) == "SoftCapped" else model.head


def shape_fields(layer: str) -> Description:
    """The fields of every Gemma; `layer` is the path of the first layer's block."""
    return {
        "vocab_size": "embed.vocab_size",
        "hidden_size": "embed.width",
        "num_hidden_layers": lambda model: len(unstack_layers(model.decoder)),
        "num_attention_heads": f"{layer}.mixer.num_heads",
        "num_key_value_heads": lambda model: count_kv_heads(get_path(model, f"{layer}.mixer")),
        "head_dim": f"{layer}.mixer.head_dim",
        "attention_bias": f"{layer}.mixer.use_bias",
        "rms_norm_eps": "decoder.norm.epsilon",
        "tie_word_embeddings": lambda model: class_name(inner_head(model)) == "Tied",
        "intermediate_size": f"{layer}.mlp.hidden_dim",
        "hidden_activation": lambda model: activation_name(get_path(model, f"{layer}.mlp").activation).replace(
            "gelu_new", TANH_GELU
        ),
    }


def gemma2_fields(layer: str) -> Description:
    """The fields that Gemma 2 added."""

    def scalar(model: nn.Module) -> float:
        mixer = get_path(model, f"{layer}.mixer")
        return mixer.head_dim if mixer.scale is None else inverse_square_root(mixer.scale)

    return {
        "query_pre_attn_scalar": scalar,
        "attn_logit_softcapping": f"{layer}.mixer.soft_cap",
        "final_logit_softcapping": lambda model: model.head.cap if class_name(model.head) == "SoftCapped" else None,
    }


def inverse_square_root(scale: float) -> float:
    """Returns the x with x ** -0.5 == scale, as a whole number if one fits."""
    x = scale**-2
    return round(x) if round(x) ** -0.5 == scale else x


def window_size(model: nn.Module) -> Any:
    """The size of the windows; OMIT if there are none, because other libraries need a size."""
    sizes = [inner_block(layer).mixer.mask.size for layer in unstack_layers(model.decoder) if is_local(layer)]
    return sizes[0] if sizes else OMIT


def layer_types(model: nn.Module) -> list[str]:
    """The field layer_types."""
    return ["sliding_attention" if is_local(layer) else "full_attention" for layer in unstack_layers(model.decoder)]


FIRST, FIRST_BLOCK = "decoder.layers.0", "decoder.layers.0.block"
GEMMA = shape_fields(FIRST) | rope_fields("decoder.position") | {"hidden_act": shape_fields(FIRST)["hidden_activation"]}
GEMMA2 = shape_fields(FIRST) | rope_fields("decoder.position") | gemma2_fields(FIRST)
GEMMA3: Description = {
    "sliding_window": window_size,
    "layer_types": layer_types,
    "rope_theta": lambda model: first_layer(model, local=False).position.base,
    "rope_local_base_freq": lambda model: first_layer(model, local=True).position.base,
    "rope_scaling": lambda model: scaling_fields(first_layer(model, local=False).position.scaling),
    "max_position_embeddings": lambda model: max_length_field(first_layer(model, local=False).position.scaling),
}
FOUR_NORMS: Rules = {
    **norm_rules(llama.LAYER + "input_layernorm", "decoder.{}.mixer_norm"),
    **norm_rules(llama.LAYER + "post_attention_layernorm", "decoder.{}.mixer_post_norm"),
    **norm_rules(llama.LAYER + "pre_feedforward_layernorm", "decoder.{}.mlp_norm"),
    **norm_rules(llama.LAYER + "post_feedforward_layernorm", "decoder.{}.mlp_post_norm"),
}


def make_table(*rules: Rules) -> Callable[[nn.Module], Table]:
    """Returns LLaMA's table of these rules; a soft cap wraps the head."""
    plain, capped = (
        llama.make_table(*rules),
        llama.make_table(*rules, {"lm_head.weight": ("head.head.table", ops.identity)}),
    )
    return lambda model: (capped if class_name(model.head) == "SoftCapped" else plain)(model)


FAMILIES = (
    Family(
        "gemma",
        build_gemma,
        GEMMA | causal_lm_field("Gemma"),
        llama.make_table(llama.ATTENTION, llama.MLP, llama.NORMS),
    ),
    Family(
        "gemma2",
        build_gemma2,
        GEMMA2 | {"sliding_window": window_size, "layer_types": layer_types} | causal_lm_field("Gemma2"),
        make_table(llama.ATTENTION, llama.MLP, FOUR_NORMS),
    ),
    Family(
        "gemma3_text",
        build_gemma3,
        shape_fields(FIRST_BLOCK) | gemma2_fields(FIRST_BLOCK) | GEMMA3 | causal_lm_field("Gemma3"),
        make_table(llama.ATTENTION, llama.MLP, FOUR_NORMS),
    ),
)

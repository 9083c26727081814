"""Gemma 1, 2 and 3 (text): RMSNorm with 1 + scale, scaled embeddings, later soft caps, windows and two rotary bases."""

from collections.abc import Callable
from typing import Any

from flax import linen as nn

from t5x_like.hf import llama, ops
from t5x_like.hf.family import Family
from t5x_like.hf.fields import Fields, activation_name
from t5x_like.hf.llama import causal_lm, kv_heads, layer_types, windows
from t5x_like.hf.modules import OMIT, Describe, at, kind, stacked, unstacked
from t5x_like.hf.rope import from_parameters, rope, rope_fields, scaled_length, scaling_fields
from t5x_like.hf.table import Rules, Table, norm
from t5x_like.models import architectures, attention, blocks, heads, linear, mlp, norms, positions

TANH = "gelu_pytorch_tanh"


def model_of(
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
    """A Gemma; `wrap` may give a layer a position encoding of its own, scores are divided by sqrt(`scalar`)."""
    width, num_heads = f("hidden_size"), f("num_attention_heads")
    head_dim, activation = f("head_dim", 256), activation_of(f)

    def scaled() -> norms.RMSNorm:
        return norms.RMSNorm(f("rms_norm_eps", 1e-6), shift=1.0)

    def layer(i: int) -> nn.Module:
        mixer = attention.SelfAttention(
            num_heads,
            head_dim,
            f("num_key_value_heads", num_heads),
            use_bias=f("attention_bias", False),
            scale=(scalar or head_dim) ** -0.5,
            soft_cap=soft_cap,
            qk_norm=scaled() if qk_norm else None,
            mask=mask_of(i),
        )
        dense = mlp.Mlp(f("intermediate_size"), activation, gated=True)
        return wrap(blocks.Block(mixer=mixer, mlp=dense, norm=scaled(), placement=placement), mixer.mask)

    f.unused("max_position_embeddings")
    f.only("use_bidirectional_attention", False)
    head = heads.Tied() if f("tie_word_embeddings", True) else heads.Untied()
    return architectures.DecoderOnly(
        linear.Embed(f("vocab_size"), width, scale=None),
        stacked([layer(i) for i in range(f("num_hidden_layers"))], position=position, norm=scaled()),
        head if cap is None else heads.SoftCapped(head, cap),
    )


def activation_of(f: Fields) -> Callable:
    """Gemma 1 has it in hidden_act, where "gelu" means the tanh one, the later ones in hidden_activation."""
    old = f("hidden_act", None)
    old = TANH if old == "gelu" and f("model_type") == "gemma" else old
    both = Fields({"hidden_activation": f("hidden_activation", None), "hidden_act": old}, f.where)
    name = both.either("hidden_activation", "hidden_act", TANH)
    return Fields({"hidden_act": name}, f.where).activation("hidden_act", TANH)


def build_gemma(f: Fields) -> nn.Module:
    return model_of(f, windows(f, lambda i: False, None), blocks.pre, rope(f, f("head_dim", 256)))


def build_gemma2(f: Fields) -> nn.Module:
    mask = windows(f, lambda i: i % 2 == 0, f("sliding_window", 4096))
    f.defaults(attn_logit_softcapping=50.0, final_logit_softcapping=30.0)
    caps = {"soft_cap": f("attn_logit_softcapping", None), "cap": f("final_logit_softcapping", None)}
    scalar = f("query_pre_attn_scalar", 256)
    return model_of(f, mask, blocks.sandwich, rope(f, f("head_dim", 256)), scalar=scalar, **caps)


def build_gemma3(f: Fields) -> nn.Module:
    every, head_dim = f("sliding_window_pattern", f("_sliding_window_pattern", 6)), f("head_dim", 256)
    mask = windows(f, lambda i: (i + 1) % every != 0, f("sliding_window", 4096))

    def own_rope(block: nn.Module, mask: Callable) -> blocks.Positioned:
        return blocks.Positioned(rope_of(f, kind(mask) == "Window", head_dim), block)

    f.only("attn_logit_softcapping", None)
    scalar, cap = f("query_pre_attn_scalar", 256), f("final_logit_softcapping", None)
    return model_of(f, mask, blocks.sandwich, None, own_rope, qk_norm=True, scalar=scalar, cap=cap)


def rope_of(f: Fields, local: bool, head_dim: int) -> positions.Rope:
    """The rotary encoding of local layers, which has no scaling, or of global ones."""
    both = f("rope_parameters", None)
    kinds = ("full_attention", "sliding_attention")
    if both is not None:
        if set(both) != set(kinds):
            raise ValueError(f"{f.where}: rope_parameters has {sorted(both)}, and should have {', '.join(kinds)}")
        return from_parameters(f, both[kinds[local]], head_dim, 1e4 if local else 1e6)
    own = positions.Rope(head_dim, float(f("rope_local_base_freq", 1e4)))
    return own if local else rope(f, head_dim, 1e6)


def first(model: nn.Module, local: bool) -> Any:
    """The first layer that has a window, or that has none."""
    layers = [layer for layer in unstacked(model.decoder) if (kind(inner(layer).mixer.mask) == "Window") == local]
    return layers[0] if layers else unstacked(model.decoder)[0]


def inner(layer: nn.Module) -> nn.Module:
    return layer.block if kind(layer) == "Positioned" else layer


def bare(model: nn.Module) -> nn.Module:
    return model.head.head if kind(model.head) == "SoftCapped" else model.head


def shape(layer: str) -> Describe:
    """The fields of all Gemmas; `layer` is the path of the first layer's block."""
    return {
        "vocab_size": "embed.vocab_size",
        "hidden_size": "embed.width",
        "num_hidden_layers": lambda model: len(unstacked(model.decoder)),
        "num_attention_heads": f"{layer}.mixer.num_heads",
        "num_key_value_heads": lambda model: kv_heads(at(model, f"{layer}.mixer")),
        "head_dim": f"{layer}.mixer.head_dim",
        "attention_bias": f"{layer}.mixer.use_bias",
        "rms_norm_eps": "decoder.norm.epsilon",
        "tie_word_embeddings": lambda model: kind(bare(model)) == "Tied",
        "intermediate_size": f"{layer}.mlp.hidden_dim",
        "hidden_activation": lambda model: activation_name(at(model, f"{layer}.mlp").activation).replace(
            "gelu_new", TANH
        ),
    }


def later(layer: str) -> Describe:
    """The fields that Gemma 2 added."""

    def scalar(model: nn.Module) -> float:
        mixer = at(model, f"{layer}.mixer")
        return mixer.head_dim if mixer.scale is None else exact(mixer.scale)

    return {
        "query_pre_attn_scalar": scalar,
        "attn_logit_softcapping": f"{layer}.mixer.soft_cap",
        "final_logit_softcapping": lambda model: model.head.cap if kind(model.head) == "SoftCapped" else None,
    }


def exact(scale: float) -> float:
    """The x with x ** -0.5 == scale: a whole number where one fits."""
    near = scale**-2
    return round(near) if round(near) ** -0.5 == scale else near


def local_sizes(model: nn.Module) -> Any:
    """The size of the windows; others need one, so where there is none the field is left out."""
    sizes = [inner(x).mixer.mask.size for x in unstacked(model.decoder) if kind(inner(x).mixer.mask) == "Window"]
    return sizes[0] if sizes else OMIT


def local_types(model: nn.Module) -> list[str]:
    local = [kind(inner(x).mixer.mask) == "Window" for x in unstacked(model.decoder)]
    return ["sliding_attention" if x else "full_attention" for x in local]


PLAIN, OWN = "decoder.layers.0", "decoder.layers.0.block"
GEMMA = shape(PLAIN) | rope_fields("decoder.position") | {"hidden_act": shape(PLAIN)["hidden_activation"]}
GEMMA2 = shape(PLAIN) | rope_fields("decoder.position") | later(PLAIN)
GEMMA3: Describe = {
    "sliding_window": local_sizes,
    "layer_types": local_types,
    "rope_theta": lambda model: first(model, local=False).position.base,
    "rope_local_base_freq": lambda model: first(model, local=True).position.base,
    "rope_scaling": lambda model: scaling_fields(first(model, local=False).position.scaling),
    "max_position_embeddings": lambda model: scaled_length(first(model, local=False).position.scaling),
}
FOUR_NORMS: Rules = {
    **norm(llama.LAYER + "input_layernorm", "decoder.{}.mixer_norm"),
    **norm(llama.LAYER + "post_attention_layernorm", "decoder.{}.mixer_post_norm"),
    **norm(llama.LAYER + "pre_feedforward_layernorm", "decoder.{}.mlp_norm"),
    **norm(llama.LAYER + "post_feedforward_layernorm", "decoder.{}.mlp_post_norm"),
}


def table(*rules: Rules) -> Callable[[nn.Module], Table]:
    """LLaMA's table of these rules; a soft cap stands around the head."""
    plain, capped = llama.table(*rules), llama.table(*rules, {"lm_head.weight": ("head.head.table", ops.same)})
    return lambda model: (capped if kind(model.head) == "SoftCapped" else plain)(model)


FAMILIES = (
    Family("gemma", build_gemma, GEMMA | causal_lm("Gemma"), llama.table(llama.ATTENTION, llama.MLP, llama.NORMS)),
    Family(
        "gemma2",
        build_gemma2,
        GEMMA2 | {"sliding_window": local_sizes, "layer_types": layer_types} | causal_lm("Gemma2"),
        table(llama.ATTENTION, llama.MLP, FOUR_NORMS),
    ),
    Family(
        "gemma3_text",
        build_gemma3,
        shape(OWN) | later(OWN) | GEMMA3 | causal_lm("Gemma3"),
        table(llama.ATTENTION, llama.MLP, FOUR_NORMS),
    ),
)

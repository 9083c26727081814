"""GGUF files of LLaMA models: metadata as a LLaMA's config.json, tensors dequantized as they are read."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from t5x_like import partitioning
from t5x_like.hf import families, filling, placing
from t5x_like.hf.tensors import Stored

# GGUF's name of a field, and config.json's.
FIELDS = {
    "llama.block_count": "num_hidden_layers",
    "llama.embedding_length": "hidden_size",
    "llama.feed_forward_length": "intermediate_size",
    "llama.attention.head_count": "num_attention_heads",
    "llama.attention.head_count_kv": "num_key_value_heads",
    "llama.attention.key_length": "head_dim",
    "llama.attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "llama.rope.freq_base": "rope_theta",
    "llama.context_length": "max_position_embeddings",
    "llama.vocab_size": "vocab_size",
}
CHECKED = ("llama.rope.dimension_count", "llama.attention.value_length")
TENSORS = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def load(
    path,
    mesh: Mesh | None = None,
    rules: partitioning.Rules = partitioning.RULES,
    dtype: Any = None,
    scan: bool = True,
    progress: placing.Progress = lambda names, total: names,
) -> tuple[nn.Module, Any]:
    """(model, params) of a GGUF file, dequantized to float32 (or `dtype`).

    Raises:
      ImportError: the `gguf` package is missing. ValueError: no GGUF file, another architecture than llama, or metadata
        and tensors that are not understood, by name.
    """
    reader = opened(path)
    config = config_of(metadata(reader), [tensor.name for tensor in reader.tensors], str(path))
    family, model = families.model_of(config, str(path))
    stored = dict(tensors(reader, config, str(path)))
    return filling.filled(family, model, stored, str(path), mesh, rules, dtype, scan, progress)


def opened(path) -> Any:
    """An open GGUF file."""
    try:
        import gguf
    except ImportError as error:
        raise ImportError("reading GGUF needs the package gguf; pip install 't5x_like[gguf]'") from error
    try:
        return gguf.GGUFReader(Path(path))
    except (ValueError, IndexError, KeyError) as error:
        raise ValueError(f"{path} is damaged or no GGUF file ({error}); fetch it again") from error


def metadata(reader) -> dict[str, Any]:
    """Every field of the file's header, as plain Python values."""
    return {name: field.contents() for name, field in reader.fields.items()}


def config_of(values: Mapping[str, Any], names: list[str], where: str) -> dict[str, Any]:
    """What a LLaMA's config.json would say.

    Raises:
      ValueError: another architecture, or a field of the architecture that is not understood.
    """
    kind = values.get("general.architecture")
    if kind != "llama":
        raise ValueError(
            f"{where}: general.architecture={kind!r} is not read here, only 'llama'; use the model's own folder"
        )
    config = {theirs: values[ours] for ours, theirs in FIELDS.items() if ours in values}
    config |= {"model_type": "llama", "tie_word_embeddings": "output.weight" not in names}
    config.setdefault("vocab_size", len(values.get("tokenizer.ggml.tokens", ())))
    head_dim = config.get("head_dim", config["hidden_size"] // config["num_attention_heads"])
    left = {name for name in values if name.startswith("llama.")} - set(FIELDS)
    for name in CHECKED:
        if values.get(name, head_dim) == head_dim:
            left.discard(name)
    if left:
        shown = ", ".join(f"{name}={values[name]!r}" for name in sorted(left))
        raise ValueError(f"{where} has fields that are not understood and may change what the model computes: {shown}")
    return config


def tensors(reader, config: Mapping[str, Any], where: str) -> Iterator[tuple[str, Stored]]:
    """(name in a LLaMA's folder, tensor); a tensor is dequantized when it is read."""
    heads = {"attn_q": config["num_attention_heads"]}
    heads["attn_k"] = config.get("num_key_value_heads", heads["attn_q"])
    for tensor in reader.tensors:
        shape = tuple(int(size) for size in reversed(tensor.shape))
        block, _, rest = tensor.name.partition(".")
        name, part = TENSORS.get(tensor.name), ""
        if name is None and block == "blk":
            number, part, kind = rest.split(".")
            name = f"model.layers.{number}.{LAYER[part]}.{kind}" if part in LAYER else None
        if name is None:
            raise ValueError(f"{where}: the tensor {tensor.name} {shape} is not understood")
        yield name, Stored(shape, np.dtype(np.float32), make=maker(tensor, shape, heads.get(part)))


def maker(tensor, shape: tuple[int, ...], heads: int | None):
    """A function that dequantizes a tensor, and puts rotary pairs that are neighbours there (`heads`) into halves."""

    def make() -> np.ndarray:
        from gguf.quants import dequantize

        array = dequantize(tensor.data, tensor.tensor_type).astype(np.float32).reshape(shape)
        if heads is None:
            return array
        return array.reshape(heads, -1, 2, *shape[1:]).swapaxes(1, 2).reshape(shape)

    return make

"""GGUF files of LLaMA models: the metadata become a LLaMA's config.json; tensors are dequantized when they are read."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from t5x_like import partitioning
from t5x_like.hf import families, filling, gguf_header, llama, placing
from t5x_like.hf.fields import Fields
from t5x_like.hf.tensors import StoredTensor
from t5x_like.types import Params, PathLike

# GGUF's field names to those of config.json.
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
REQUIRED = tuple(FIELDS)[:4]
HEAD_DIM_FIELDS = ("llama.rope.dimension_count", "llama.attention.value_length")
TENSORS = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
LAYER_TENSORS = {
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
    path: PathLike,
    mesh: Mesh | None = None,
    rules: partitioning.Rules = partitioning.RULES,
    dtype: Any = None,
    scan: bool = True,
    progress: placing.Progress = lambda names, total: names,
    allow_nonfinite: bool = False,
) -> tuple[nn.Module, Params]:
    """Loads a GGUF file, dequantized to float32 (or `dtype`); the arguments are those of `convert.load`.

    Raises:
      ImportError: the package `gguf` is not installed.
      ValueError: the file is not GGUF, the architecture is not llama, metadata or tensors are unknown, or a value is not
        finite; the message names them.
    """
    reader = open_file(path)
    config = convert_config(read_metadata(reader), [tensor.name for tensor in reader.tensors], str(path))
    stored = dict(list_tensors(reader, config, str(path)))
    family, model = families.build_model(config, str(path), names=stored)
    return filling.fill_parameters(
        family, model, stored, str(path), mesh, rules, dtype, scan, progress, allow_nonfinite
    )


def open_file(path: PathLike) -> Any:
    """Opens a GGUF file; returns a gguf.GGUFReader.

    Raises:
      ImportError: the package `gguf` is not installed.
      ValueError: the file is damaged or not GGUF.
    """
    try:
        import gguf
    except ImportError as error:
        raise ImportError("reading GGUF files needs the package gguf; pip install 't5x_like[gguf]'") from error
    try:
        gguf_header.check(Path(path))
        return gguf.GGUFReader(Path(path))
    except (ValueError, IndexError, KeyError, OverflowError, TypeError) as error:
        raise ValueError(f"{path} is damaged or not a GGUF file ({error}); download it again") from error


def read_metadata(reader: Any) -> dict[str, Any]:
    """Returns every field of the file's header as a plain Python value.

    Raises:
      ValueError: a text is not UTF-8.
    """
    return {name: field.contents() for name, field in reader.fields.items()}


def convert_config(values: Mapping[str, Any], names: list[str], where: str) -> dict[str, Any]:
    """Returns a LLaMA's config.json for metadata and tensor names.

    Raises:
      ValueError: the architecture is not llama, or a field of the architecture is missing, unknown or out of range.
    """
    kind = values.get("general.architecture")
    if kind != "llama":
        raise ValueError(
            f"{where}: general.architecture={kind!r} is not supported, only 'llama'; use the model's Hugging Face folder"
        )
    config = {name: values[gguf_name] for gguf_name, name in FIELDS.items() if gguf_name in values}
    config |= {"model_type": "llama", "tie_word_embeddings": "output.weight" not in names}
    if missing := [gguf_name for gguf_name in REQUIRED if gguf_name not in values]:
        raise ValueError(
            f"{where} has no {', '.join(missing)}; download it again, or use the model's Hugging Face folder"
        )
    tokens = values.get("tokenizer.ggml.tokens")
    config.setdefault("vocab_size", len(tokens) if isinstance(tokens, list) else 0)
    head_dim = llama.read_head_dim(Fields(config, where))
    unknown = {name for name in values if name.startswith("llama.")} - set(FIELDS)
    for name in HEAD_DIM_FIELDS:
        if values.get(name, head_dim) == head_dim:
            unknown.discard(name)
    if unknown:
        listed = ", ".join(f"{name}={str(values[name])[:80]!r}" for name in sorted(unknown))
        raise ValueError(f"{where} has unknown fields that may change what the model computes: {listed}")
    return config


def list_tensors(reader: Any, config: Mapping[str, Any], where: str) -> Iterator[tuple[str, StoredTensor]]:
    """Yields (name in a LLaMA's folder, tensor); a tensor is dequantized when it is read."""
    heads = {"attn_q": config["num_attention_heads"]}
    heads["attn_k"] = config.get("num_key_value_heads", heads["attn_q"])
    for tensor in reader.tensors:
        shape = tuple(int(size) for size in reversed(tensor.shape))
        block, _, rest = tensor.name.partition(".")
        name, part = TENSORS.get(tensor.name), ""
        if name is None and block == "blk" and rest.count(".") == 2:
            number, part, kind = rest.split(".")
            name = f"model.layers.{number}.{LAYER_TENSORS[part]}.{kind}" if part in LAYER_TENSORS else None
        if name is None:
            raise ValueError(f"{where}: the tensor {tensor.name} {shape} is unknown")
        yield name, StoredTensor(shape, np.dtype(np.float32), make=make_dequantizer(tensor, shape, heads.get(part)))


def make_dequantizer(tensor: Any, shape: tuple[int, ...], heads: int | None) -> Callable[[], np.ndarray]:
    """Returns a function that dequantizes a tensor and, with `heads`, changes rotary pairs from neighbours to halves."""

    def make() -> np.ndarray:
        from gguf.quants import dequantize

        try:
            array = dequantize(tensor.data, tensor.tensor_type).astype(np.float32).reshape(shape)
        except NotImplementedError as error:
            raise ValueError(f"{tensor.name} is stored as {tensor.tensor_type.name}, which is not supported") from error
        if heads is None:
            return array
        return array.reshape(heads, -1, 2, *shape[1:]).swapaxes(1, 2).reshape(shape)

    return make

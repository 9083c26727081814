"""Writes what a transform trains as a folder of PEFT, to be loaded with `PeftModel.from_pretrained(base, folder)`."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from t5x_like import checkpoints
from t5x_like.hf import modules, tensors
from t5x_like.hf.table import Entry, Target
from t5x_like.hf.tensors import StoredTensor
from t5x_like.parameters import ADDED, Transform
from t5x_like.peft import ia3, lora
from t5x_like.peft.lora import LoRA
from t5x_like.tuning import matrices, peft_config, virtual
from t5x_like.tuning.importing import NORM_SUFFIX
from t5x_like.tuning.matrices import Part
from t5x_like.tuning.names import ROOT, Names, slashed
from t5x_like.types import Params

Pieces = dict[str, np.ndarray] | None  # what was added to a weight, by name
VIRTUAL = "prompt_embeddings"  # the name of all virtual tokens' array, without a prefix
TASKS = {("decoder",): "CAUSAL_LM", ("encoder", "decoder"): "SEQ_2_SEQ_LM"}


def write(folder: Path, names: Names, transform: Transform, trained: Params, base: Params | None, source: str) -> None:
    """Writes adapter_config.json and adapter_model.safetensors into a folder.

    Args:
      folder: an existing folder.
      names: those of the base model, without virtual tokens.
      transform: what was tuned: LoRA, (IA)3, a selection of norms, a prompt or a prefix.
      trained: the values that were trained.
      base: the base's parameters, whose hash is written so that an import onto another base is refused; None writes none.
      source: where the base can be found, which PEFT reads from the settings.

    Raises:
      ValueError: PEFT has no such method, or its format cannot hold these weights.
    """
    kinds = {"LoRA": write_lora, "IA3": write_ia3, "Train": write_norms, "Prompt": write_prompt, "Prefix": write_prefix}
    name = type(transform).__name__
    if name not in kinds:
        raise ValueError(
            f"the format of PEFT holds no {name}; without --adapter, hf export writes the tuned model itself"
        )
    config, content = kinds[name](names, transform, jax.device_get(trained))
    config |= {
        "base_model_name_or_path": source,
        "inference_mode": True,
        "task_type": TASKS.get(tuple(names.model.sides), "FEATURE_EXTRACTION" if VIRTUAL in content else None),
        "modules_to_save": None,
    }
    stored = {key if key == VIRTUAL else f"{ROOT}{key}": as_stored(x) for key, x in content.items()}
    metadata = {"format": "pt"} | ({} if base is None else {peft_config.HASH: names.hash(base)})
    tensors.write_file(folder / peft_config.TENSORS_FILE, stored, iter(stored), metadata)
    (folder / peft_config.CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def as_stored(x: np.ndarray) -> StoredTensor:
    """An array as a tensor to write."""
    return StoredTensor(x.shape, x.dtype, make=lambda: x)


def write_lora(names: Names, transform: LoRA, trained: Params) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(settings, tensors) of LoRA, rsLoRA or DoRA."""
    added = list_added(trained, lora.NAME)
    content: dict[str, np.ndarray] = {}
    modules: dict[str, tuple[int, float]] = {}
    for module, entry in adapted_entries(names, added):
        factors = [piece_of(added, target) for target in entry.targets]
        scales = {transform.scale(slashed(t.path)) for t, x in zip(entry.targets, factors, strict=True) if x}
        if len(scales) > 1:
            raise ValueError(
                f"the weights of {module} have the scales {sorted(scales)}, but the file stores them as one"
            )
        made = lora_tensors(names, entry, factors)
        rank = next(x.shape[0] for key, x in made.items() if key.endswith("_A") or key.endswith("A.weight"))
        root = rank**0.5 if transform.rank_stabilized else rank
        modules[module] = rank, scales.pop() * root
        content |= {f"{module}.{key}": x for key, x in made.items()}
    rank, alpha = next(iter(modules.values()))
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": whole_number(alpha),
        "lora_dropout": transform.dropout,
        "target_modules": sorted(modules),
        "rank_pattern": {module: r for module, (r, _) in modules.items() if r != rank},
        "alpha_pattern": {module: whole_number(x) for module, (_, x) in modules.items() if abs(x - alpha) > 1e-9},
        "use_rslora": transform.rank_stabilized,
        "use_dora": transform.magnitudes,
        "bias": "none",
        "fan_in_fan_out": is_conv(names),
        "init_lora_weights": True,
    }
    others = whole_tensors(names, trained)
    if others and all(name.endswith(".bias") for name in others):
        config["bias"] = "all"
        every = {name for name in names.entries if name.endswith(".bias")}
        if missing := every - set(others):
            raise ValueError(
                f"LoRA.trained are some biases but not {', '.join(sorted(missing)[:3])}; PEFT's format has all or none"
            )
    elif others:
        raise ValueError(f"LoRA.trained are {', '.join(sorted(others)[:4])}; PEFT's format has biases alone here")
    wrapped = {f"{module}.bias": f"{module}.base_layer.bias" for module in modules}
    return config, content | {wrapped.get(name, name): x for name, x in others.items()}


def lora_tensors(names: Names, entry: Entry, factors: Sequence[Pieces]) -> dict[str, np.ndarray]:
    """The tensors of one module."""
    target = names.targets[slashed(entry.targets[0].path)]
    if target.is_table:
        if "table" not in names.boxed.get("head", {}):
            raise ValueError(f"{target.path} is the head's table too, which PEFT's format cannot say; export the model")
        (only,) = (x for x in factors if x is not None)
        a, b = only["a"], only["b"]
        if target.path.startswith("head"):
            return {"lora_A.weight": b, "lora_B.weight": a}
        return {"lora_embedding_A": a.T, "lora_embedding_B": b.T}
    shape = entry.shape()
    found = parts_of(names, entry)
    ins = found[0].ins.size
    made = matrices.join(found, factors, (ins, shape[0] * shape[1] // ins))
    return {(f"{key}.weight" if len(key) == 6 else key): x for key, x in made.items()}


def write_ia3(names: Names, transform: Any, trained: Params) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(settings, tensors) of (IA)3."""
    added = list_added(trained, ia3.NAME)
    content: dict[str, np.ndarray] = {}
    of_inputs = []
    for module, entry in adapted_entries(names, added):
        pieces = [piece_of(added, target) for target in entry.targets]
        factors = [x for x in pieces if x is not None]
        kinds = {kind for x in factors for kind in x}
        if len(kinds) > 1 or len(factors) < len(pieces):
            raise ValueError(
                f"IA3 scales some of the weights that {module} holds as one; PEFT's format has all or none"
            )
        kind = kinds.pop()
        found = parts_of(names, entry)
        size = found[0].ins.size if kind == "inputs" else sum(part.outs.size for part in found)
        vector = np.zeros(size, factors[0][kind].dtype)
        for part, x in zip(found, factors, strict=True):
            vector[(part.ins if kind == "inputs" else part.outs).reshape(-1)] = x[kind].reshape(-1)
        content[f"{module}.ia3_l"] = vector.reshape((1, -1) if kind == "inputs" else (-1, 1))
        of_inputs += [module] * (kind == "inputs")
    modules = sorted(name.removesuffix(".ia3_l") for name in content)
    config = {
        "peft_type": "IA3",
        "target_modules": modules,
        "feedforward_modules": of_inputs,
        "fan_in_fan_out": is_conv(names),
    }
    return config, content


def write_norms(names: Names, transform: Any, trained: Params) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(settings, tensors) of LayerNorm tuning.

    Raises:
      ValueError: other parameters than norms were trained, or half of a norm.
    """
    others = whole_tensors(names, trained)
    modules = sorted({name.rpartition(".")[0] for name in others})
    for module in modules:
        own = {name for name in names.entries if name.startswith(f"{module}.")}
        shapes = {len(names.entries[name].shape()) for name in own}
        if own - set(others) or shapes != {1}:
            raise ValueError(
                f"{module} is no norm that is trained as a whole, which is all that PEFT's LN_TUNING holds"
            )
    parts = {name: name.rpartition(".") for name in others}
    content = {f"{module}{NORM_SUFFIX}.{part}": others[name] for name, (module, _, part) in parts.items()}
    return {"peft_type": "LN_TUNING", "target_modules": modules}, content


def write_prompt(names: Names, transform: Any, trained: Params) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(settings, tensors) of prompt tuning."""
    (vectors_PD,) = map(np.asarray, jax.tree.leaves(trained))
    return virtual_config(names, "PROMPT_TUNING", vectors_PD) | {"token_dim": vectors_PD.shape[1]}, {
        VIRTUAL: vectors_PD
    }


def write_prefix(names: Names, transform: Any, trained: Params) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(settings, tensors) of prefix tuning; an MLP is written as the keys and values that it gives.

    Raises:
      ValueError: an encoder-decoder, whose prefixes PEFT gives to other layers.
    """
    if len(names.model.sides) > 1:
        raise ValueError("PEFT's prefixes of encoder-decoders are those of other layers; export to it is not supported")
    stored = virtual.join_prefix(names.model, transform.merge(trained, {}))
    config = virtual_config(names, "PREFIX_TUNING", stored)
    width = stored.shape[1] // (2 * config["num_layers"])
    return config | {"token_dim": width, "encoder_hidden_size": width, "prefix_projection": False}, {VIRTUAL: stored}


def virtual_config(names: Names, kind: str, stored: np.ndarray) -> dict[str, Any]:
    """The settings of virtual tokens."""
    tower = getattr(names.model, names.model.sides[-1])
    attention: Any = modules.unstack_layers(tower)[0]
    attention = getattr(attention, "block", attention).mixer
    heads = attention.num_kv_heads or attention.num_heads
    return {
        "peft_type": kind,
        "num_virtual_tokens": len(stored),
        "num_layers": len(virtual.layers(names.model)),
        "num_attention_heads": heads if kind == "PREFIX_TUNING" else attention.num_heads,
        "num_transformer_submodules": 1,
    }


def list_added(trained: Params, kind: str) -> dict[str, dict[str, np.ndarray]]:
    """{path of a weight: what a transform added to it by name}; factors of (IA)3 without "scale"."""
    result: dict[str, dict[str, np.ndarray]] = {}
    for name, x in checkpoints.leaves_by_name(trained).items():
        if f"{ADDED}{kind}." in name:
            path, _, part = name.partition(f"{ADDED}{kind}.")
            result.setdefault(slashed(path), {})[part.removesuffix(".scale")] = np.asarray(x)
    return result


def adapted_entries(names: Names, added: Mapping[str, Any]) -> Iterator[tuple[str, Entry]]:
    """Yields (module, entry) of the tensors of which a weight has something added."""
    held: set[str] = set()
    for name, entry in names.entries.items():
        paths = {slashed(target.path) for target in entry.targets}
        if paths & set(added):
            held |= paths
            yield name.removesuffix(".weight"), entry
    if missing := set(added) - held:
        raise ValueError(f"no tensor of the file holds {', '.join(sorted(missing))}")


def piece_of(added: Mapping[str, Mapping[str, np.ndarray]], target: Target) -> Pieces:
    """What was added to one layer or expert of a weight."""
    found = added.get(slashed(target.path))
    return None if found is None else {name: x[target.index] for name, x in found.items()}


def parts_of(names: Names, entry: Entry) -> tuple[Part, ...]:
    """The parts of a tensor, see `matrices`."""
    inputs = tuple(names.targets[slashed(target.path)].inputs for target in entry.targets)
    return matrices.parts(entry.op, entry.shape(), tuple(target.shape for target in entry.targets), inputs)


def whole_tensors(names: Names, trained: Params) -> dict[str, np.ndarray]:
    """The tensors of parameters of the model that were trained as they are.

    Raises:
      ValueError: the file holds one together with others that were not.
    """
    own = {name: np.asarray(x) for name, x in checkpoints.leaves_by_name(trained).items() if ADDED not in name}
    result = {}
    for name, entry in names.entries.items():
        present = [target.path in own for target in entry.targets]
        if any(present) and not all(present):
            raise ValueError(f"{name} is trained in part, but the file stores it as one")
        if all(present):
            result[name] = np.ascontiguousarray(entry.op.join([own[t.path][t.index] for t in entry.targets]))
    return result


def is_conv(names: Names) -> bool:
    """Whether the family stores its kernels [in, out], as GPT-2 does."""
    return names.family.model_type == "gpt2"


def whole_number(x: float) -> float | int:
    """A number without its fraction, if it has none but rounding."""
    return round(x) if abs(x - round(x)) < 1e-9 else x

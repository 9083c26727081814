"""The settings of adapter_config.json that change what an adapter computes, each read or expected to have its default."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CONFIG_FILE, TENSORS_FILE = "adapter_config.json", "adapter_model.safetensors"
HASH = "base_sha256"  # in the metadata of the safetensors file: the base that the adapter was trained on

# Values with which a field of any PEFT version changes nothing.
NEUTRAL: Mapping[str, Sequence[Any]] = {
    "layer_replication": (None,),
    "lora_bias": (False, None),
    "target_parameters": (None, []),
    "trainable_token_indices": (None, [], {}),
    "use_qalora": (False, None),
    "use_bdlora": (None, False),
    "alora_invocation_tokens": (None,),
    "arrow_config": (None,),
    "kasa_config": (None,),
    "velora_config": (None,),
    "init_lora_weights": (True, False, None, "gaussian", "eva", "orthogonal", "lora_ga"),
    "bias": ("none", "all", "lora_only"),
    "num_transformer_submodules": (None, 1),
    "prefix_projection": (False, None),
}
KINDS = ("LORA", "IA3", "LN_TUNING", "PROMPT_TUNING", "PREFIX_TUNING")


def read(folder: Path) -> dict[str, Any]:
    """The fields of a folder's adapter_config.json.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: it is not a JSON object, or its method or a field that changes the mathematics is not supported.
    """
    for name in (CONFIG_FILE, TENSORS_FILE):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"--adapter={folder} has no {name}; give the folder that PEFT's save_pretrained wrote"
            )
    path = folder / CONFIG_FILE
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); copy it again") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} is a {type(config).__name__}, not an object; copy it again")
    kind = config.get("peft_type")
    if kind not in KINDS:
        raise ValueError(f"{path}: peft_type={kind!r} is not supported; supported are {', '.join(KINDS)}")
    for name, allowed in NEUTRAL.items():
        if name in config and config[name] not in allowed:
            choices = " or ".join(map(repr, allowed))
            raise ValueError(f"{path}: {name}={config[name]!r} is not supported, only {choices}")
    return config


def number(config: Mapping[str, Any], name: str, where: Path) -> float:
    """A positive number of the configuration.

    Raises:
      ValueError: it is missing, or no positive number.
    """
    value = config.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
        raise ValueError(f"{where}: {name}={value!r} is not a positive number")
    return value


def of_module(config: Mapping[str, Any], name: str, module: str, default: Any) -> Any:
    """The value of `rank_pattern` or `alpha_pattern` for a module: that of the first expression that ends its name."""
    patterns: Mapping[str, Any] = config.get(name) or {}
    return next((x for pattern, x in patterns.items() if re.match(rf"(.*\.)?({pattern})$", module)), default)

"""Rotary positions in config.json, with the fields of transformers 4 (rope_theta, rope_scaling) and 5 (rope_parameters)."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from t5x_like.hf.fields import Fields
from t5x_like.hf.modules import OMIT, Description, class_name, get_path
from t5x_like.models import positions, rope_scaling

SCALINGS = ("default", "linear", "dynamic", "llama3", "yarn")


def build_rope(f: Fields, width: int, base: float = 1e4) -> positions.Rope:
    """Returns the rotary encoding of a configuration; `base` is the family's default."""
    values = f("rope_parameters", None)
    if values is None:
        return positions.Rope(width, float(f("rope_theta", base)), build_scaling(f, dict(f("rope_scaling", {}))))
    return rope_from_parameters(f, values, width, base)


def rope_from_parameters(f: Fields, values: Mapping[str, Any], width: int, base: float) -> positions.Rope:
    """Returns the rotary encoding of transformers 5's rope_parameters, which include the base."""
    values = dict(values)
    values.pop("partial_rotary_factor", None)  # read by `rotary_width`
    return positions.Rope(width, float(values.pop("rope_theta", base)), build_scaling(f, values))


def rotary_width(f: Fields, head_dim: int, field: str, default: float) -> int:
    """Returns the rotated width of a head, from a fraction in its own field or in rope_parameters."""
    share = (f("rope_parameters", {}) or {}).get("partial_rotary_factor")
    own = f(field, default)
    return int(head_dim * (own if share is None else share))


def build_scaling(f: Fields, values: dict[str, Any]) -> Any:
    """Returns the scaling of rope_scaling, or None.

    Raises:
      ValueError: the type is not supported, or an entry is missing or unknown.
    """
    name = Fields(values, f"{f.where}: rope_scaling").either("rope_type", "type", "default")
    values = {key: value for key, value in values.items() if key not in ("rope_type", "type")}

    def take(key: str, default: Any = None) -> Any:
        value = values.pop(key, None)
        if value is None and default is None:
            raise ValueError(f"{f.where}: rope_scaling of type {name!r} has no {key!r}")
        return default if value is None else value

    if name not in SCALINGS:
        raise ValueError(f"{f.where}: rope_scaling type {name!r} is not supported; supported are {', '.join(SCALINGS)}")
    result: Any = None
    if name == "linear":
        result = rope_scaling.Linear(float(take("factor")))
    elif name == "dynamic":
        result = rope_scaling.DynamicNtk(float(take("factor")), f("max_position_embeddings"))
        values.pop("original_max_position_embeddings", None)
    elif name == "llama3":
        low, high = take("low_freq_factor"), take("high_freq_factor")
        length = take("original_max_position_embeddings")
        result = rope_scaling.Llama3(float(take("factor")), float(low), float(high), length)
    elif name == "yarn":
        result = build_yarn(f, take)
    if unknown := {key: value for key, value in values.items() if value is not None}:
        raise ValueError(f"{f.where}: rope_scaling of type {name!r} has unknown entries: {unknown}")
    return result


def build_yarn(f: Fields, take: Callable[..., Any]) -> rope_scaling.Yarn:
    """Returns YaRN; its magnitude is `attention_factor`, or computed from `mscale` and `mscale_all_dim`, or its default."""
    factor, length = float(take("factor")), take("original_max_position_embeddings", f("max_position_embeddings", 0))
    fast, slow = float(take("beta_fast", 32)), float(take("beta_slow", 1))
    magnitude, part, whole = take("attention_factor", 0), take("mscale", 0), take("mscale_all_dim", 0)
    if not magnitude and part and whole:
        magnitude = (0.1 * part * math.log(factor) + 1) / (0.1 * whole * math.log(factor) + 1)
    return rope_scaling.Yarn(factor, length, fast, slow, magnitude or None, bool(take("truncate", True)))


def rope_fields(path: str) -> Description:
    """Describes the Rope at a path: rope_theta, rope_scaling and, if the scaling needs it, max_position_embeddings."""
    return {
        "rope_theta": f"{path}.base",
        "rope_scaling": lambda model: scaling_fields(get_path(model, path).scaling),
        "max_position_embeddings": lambda model: max_length_field(get_path(model, path).scaling),
    }


def max_length_field(scaling: Any) -> Any:
    """max_position_embeddings if the scaling needs it, else OMIT."""
    return scaling.original_length if class_name(scaling) == "DynamicNtk" else OMIT


def scaling_fields(scaling: Any) -> dict[str, Any] | None:
    """Returns rope_scaling of a scaling.

    Raises:
      ValueError: config.json has no such type.
    """
    if scaling is None:
        return None
    names: dict[str, tuple[str, dict[str, str]]] = {
        "Linear": ("linear", {"factor": "factor"}),
        "DynamicNtk": ("dynamic", {"factor": "factor"}),
        "Llama3": (
            "llama3",
            {
                "factor": "factor",
                "low_factor": "low_freq_factor",
                "high_factor": "high_freq_factor",
                "original_length": "original_max_position_embeddings",
            },
        ),
        "Yarn": (
            "yarn",
            {
                "factor": "factor",
                "original_length": "original_max_position_embeddings",
                "fast": "beta_fast",
                "slow": "beta_slow",
                "magnitude": "attention_factor",
                "truncate": "truncate",
            },
        ),
    }
    if class_name(scaling) not in names:
        raise ValueError(f"config.json has no rope_scaling for {class_name(scaling)}")
    name, keys = names[class_name(scaling)]
    values = dataclasses.asdict(scaling)
    return {"rope_type": name} | {key: values[field] for field, key in keys.items() if values[field] is not None}

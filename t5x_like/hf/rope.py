"""Rotary positions in config.json, with the fields of transformers 4 (rope_theta, rope_scaling) and 5 (rope_parameters)."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from t5x_like.hf.fields import MAX_HEAD, Fields, check_value, format_json
from t5x_like.hf.modules import OMIT, Description, class_name, get_path
from t5x_like.models import positions, rope_scaling

SCALINGS = ("default", "linear", "dynamic", "llama3", "yarn")


def build_rope(f: Fields, width: int, base: float = 1e4) -> positions.Rope:
    """Returns the rotary encoding of a configuration; `base` is the family's default."""
    check_rotary(f, width, width)
    values = f.optional("rope_parameters", {})
    if values is None:
        scaling = Fields(f("rope_scaling", {}), f"{f.where}: rope_scaling")
        return positions.Rope(width, f.rotary_base("rope_theta", base), build_scaling(f, scaling))
    return rope_from_parameters(f, values, width, f.rotary_base("rope_theta", base))


def rope_from_parameters(f: Fields, values: Mapping[str, Any], width: int, base: float) -> positions.Rope:
    """Returns the rotary encoding of transformers 5's rope_parameters, which include the base."""
    own = Fields(check_value(f"{f.where}: rope_parameters", values, {}), f"{f.where}: rope_parameters")
    own.ignore("partial_rotary_factor")  # read by `rotary_width`
    return positions.Rope(width, own.rotary_base("rope_theta", base), build_scaling(f, own))


def rotary_width(f: Fields, head_dim: int, field: str, default: float) -> int:
    """Returns the rotated width of a head, from a fraction in its own field or in rope_parameters."""
    own = f(field, default, high=1.0)
    parameters = Fields(f("rope_parameters", {}), f"{f.where}: rope_parameters")
    return check_rotary(f, int(head_dim * parameters("partial_rotary_factor", own, high=1.0)), head_dim)


def check_rotary(f: Fields, width: int, head_dim: int) -> int:
    """Returns the rotated width of a head; raises ValueError unless it is even and at most `head_dim`."""
    head_dim = min(head_dim, MAX_HEAD)
    if width < 2 or width % 2 or width > head_dim:
        raise ValueError(
            f"{f.where}: {width} numbers of each head are rotated; needed is an even number up to {head_dim}"
        )
    return width


def build_scaling(f: Fields, scaling: Fields) -> Any:
    """Returns the scaling of rope_scaling, or None; `f` are the fields of the whole configuration.

    Raises:
      ValueError: the type is not supported, or an entry is missing, unknown or out of range.
    """
    name = scaling.either("rope_type", "type", "default")
    if name not in SCALINGS:
        raise ValueError(f"{scaling.where} type {name!r} is not supported; supported are {', '.join(SCALINGS)}")
    result: Any = None
    if name == "linear":
        result = rope_scaling.Linear(float(scaling("factor", like=1.0)))
    elif name == "dynamic":
        result = rope_scaling.DynamicNtk(float(scaling("factor", like=1.0)), f("max_position_embeddings"))
        scaling.ignore("original_max_position_embeddings")
    elif name == "llama3":
        result = build_llama3(scaling)
    elif name == "yarn":
        result = build_yarn(f, scaling)
    if unknown := {key: x for key, x in scaling.values.items() if key not in scaling.used and x is not None}:
        raise ValueError(f"{scaling.where} of type {name!r} has unknown entries: {format_json(unknown)}")
    return result


def build_llama3(scaling: Fields) -> rope_scaling.Llama3:
    """Returns the scaling of LLaMA 3."""
    low, high = (float(scaling(f"{name}_freq_factor", like=1.0)) for name in ("low", "high"))
    if not low < high:
        raise ValueError(f"{scaling.where}: low_freq_factor={low:g} is not below high_freq_factor={high:g}")
    return rope_scaling.Llama3(
        float(scaling("factor", like=1.0)), low, high, scaling("original_max_position_embeddings")
    )


def build_yarn(f: Fields, scaling: Fields) -> rope_scaling.Yarn:
    """Returns YaRN; its magnitude is `attention_factor`, or computed from `mscale` and `mscale_all_dim`, or its default."""
    factor = float(scaling("factor", like=1.0, low=1.0))
    length = scaling.optional("original_max_position_embeddings", 1) or f("max_position_embeddings")
    fast, slow = float(scaling("beta_fast", 32.0)), float(scaling("beta_slow", 1.0))
    magnitude, part, whole = (scaling(name, 0.0, low=0.0) for name in ("attention_factor", "mscale", "mscale_all_dim"))
    if not magnitude and part and whole:
        magnitude = (0.1 * part * math.log(factor) + 1) / (0.1 * whole * math.log(factor) + 1)
    return rope_scaling.Yarn(factor, length, fast, slow, magnitude or None, scaling("truncate", True))


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

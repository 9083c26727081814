"""Rotary positions in config.json, in transformers 4's fields (rope_theta, rope_scaling) and 5's (rope_parameters)."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from t5x_like.hf.fields import Fields
from t5x_like.hf.modules import OMIT, Describe, at, kind
from t5x_like.models import positions, rope_scaling

SCALINGS = ("default", "linear", "dynamic", "llama3", "yarn")


def rope(f: Fields, width: int, base: float = 1e4) -> positions.Rope:
    """The rotary encoding that a configuration describes; `base` is the family's default."""
    values = f("rope_parameters", None)
    if values is None:
        return positions.Rope(width, float(f("rope_theta", base)), scaling(f, dict(f("rope_scaling", {}))))
    return from_parameters(f, values, width, base)


def from_parameters(f: Fields, values: Mapping[str, Any], width: int, base: float) -> positions.Rope:
    """The same from transformers 5's rope_parameters, which hold the base too."""
    values = dict(values)
    values.pop("partial_rotary_factor", None)  # asked for by `rotary_width`
    return positions.Rope(width, float(values.pop("rope_theta", base)), scaling(f, values))


def rotary_width(f: Fields, head_dim: int, field: str, default: float) -> int:
    """How much of a head is rotated, from a fraction that is a field of its own or among rope_parameters."""
    share = (f("rope_parameters", {}) or {}).get("partial_rotary_factor")
    own = f(field, default)
    return int(head_dim * (own if share is None else share))


def scaling(f: Fields, values: dict[str, Any]):
    """The scaling of rope_scaling; every entry is used or refused."""
    name = Fields(values, f"{f.where}: rope_scaling").either("rope_type", "type", "default")
    values = {key: value for key, value in values.items() if key not in ("rope_type", "type")}

    def take(key: str, default: Any = None) -> Any:
        value = values.pop(key, None)
        if value is None and default is None:
            raise ValueError(f"{f.where}: rope_scaling of type {name!r} has no {key!r}")
        return default if value is None else value

    if name not in SCALINGS:
        raise ValueError(f"{f.where}: rope_scaling type {name!r} is not supported; supported are {', '.join(SCALINGS)}")
    result = None
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
        result = yarn(f, take)
    if left := {key: value for key, value in values.items() if value is not None}:
        raise ValueError(f"{f.where}: rope_scaling of type {name!r} has entries that are not understood: {left}")
    return result


def yarn(f: Fields, take) -> rope_scaling.Yarn:
    """YaRN, its magnitude from `attention_factor`, or from `mscale` and `mscale_all_dim`, or its own default."""
    factor, length = float(take("factor")), take("original_max_position_embeddings", f("max_position_embeddings", 0))
    fast, slow = float(take("beta_fast", 32)), float(take("beta_slow", 1))
    magnitude, part, whole = take("attention_factor", 0), take("mscale", 0), take("mscale_all_dim", 0)
    if not magnitude and part and whole:
        magnitude = (0.1 * part * math.log(factor) + 1) / (0.1 * whole * math.log(factor) + 1)
    return rope_scaling.Yarn(factor, length, fast, slow, magnitude or None, bool(take("truncate", True)))


def rope_fields(path: str) -> Describe:
    """rope_theta, rope_scaling and, where the scaling needs it, max_position_embeddings of the Rope at a path."""
    return {
        "rope_theta": f"{path}.base",
        "rope_scaling": lambda model: scaling_fields(at(model, path).scaling),
        "max_position_embeddings": lambda model: scaled_length(at(model, path).scaling),
    }


def scaled_length(stretch) -> Any:
    """max_position_embeddings, where a scaling needs it."""
    return stretch.original_length if kind(stretch) == "DynamicNtk" else OMIT


def scaling_fields(stretch) -> dict[str, Any] | None:
    """rope_scaling for a scaling.

    Raises:
      ValueError: config.json has no such type.
    """
    if stretch is None:
        return None
    names = {
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
                "whole": "truncate",
            },
        ),
    }
    if kind(stretch) not in names:
        raise ValueError(f"config.json has no rope_scaling for {kind(stretch)}")
    name, keys = names[kind(stretch)]
    values = dataclasses.asdict(stretch)
    return {"rope_type": name} | {key: values[field] for field, key in keys.items() if values[field] is not None}

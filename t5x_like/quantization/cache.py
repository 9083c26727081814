"""Quantization of the decoding cache: keys and values are rounded when written, with a scale per row, head and position."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, cast

from t5x_like.models import quantized
from t5x_like.quantization import formats
from t5x_like.types import Model

FUNCTIONS: Mapping[str, Callable] = {"int8": quantized.vectors_to_int8}


def quantize(model: Model, name: str = "int8") -> Model:
    """The same model with a quantized cache.

    Raises:
      ValueError: there is no such format, or the model has no such cache.
    """
    formats.check("kv_cache_dtype", name, formats.CACHE)
    if not hasattr(model, "cache_format"):
        raise ValueError(f"kv_cache_dtype={name!r}: the model ({type(model).__name__}) has no decoding cache; use None")
    return dataclasses.replace(cast(Any, model), cache_format=FUNCTIONS[name])

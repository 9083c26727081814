"""The ranges of the numbers that models and objectives have as fields, checked before anything is computed."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

SIZES = {
    *("width", "vocab_size", "num_heads", "num_kv_heads", "head_dim", "hidden_dim", "repeats", "max_length"),
    *("num_buckets", "max_distance", "num_experts", "top_k", "dims", "size", "tokens", "original_length"),
    "most_segments",
}
RATES = {"dropout", "output_dropout", "label_smoothing"}
POSITIVE = {"base", "max_wavelength", "factor", "low_factor", "high_factor", "cap", "soft_cap"}
NOT_NEGATIVE = {"epsilon", "load_balance_weight", "z_weight", "z_loss"}


def check(whole: Any) -> None:
    """Checks the numbers of a model or an objective; fields of other names may have any value.

    Raises:
      ValueError: one that is out of range, with the class and the name of its field.
    """
    for owner, name, value in numbers(whole, set()):
        if name in SIZES:
            good, range_ = isinstance(value, int) and value >= 1, "a positive whole number"
        elif name in RATES:
            good, range_ = 0 <= value < 1, "a rate: 0 or more, and below 1"
        elif name in POSITIVE:
            good, range_ = 0 < value < math.inf, "positive and finite"
        else:
            good, range_ = name not in NOT_NEGATIVE or 0 <= value < math.inf, "finite, and 0 or more"
        if not good:
            raise ValueError(f"{type(owner).__name__}.{name}={value} is not {range_}")


def numbers(part: Any, seen: set[int]) -> Iterator[tuple[Any, str, int | float]]:
    """Yields (object, name of its field, number) of an object and of everything that it is built from."""
    if id(part) in seen:
        return
    seen.add(id(part))
    if isinstance(part, list | tuple):
        for item in part:
            yield from numbers(item, seen)
    if not dataclasses.is_dataclass(part) or isinstance(part, type):
        return
    for field in dataclasses.fields(part):
        value = getattr(part, field.name, None)
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield part, field.name, value
        elif field.name != "parent":
            yield from numbers(value, seen)

"""Record fields as tensor values: selects fields, infers their kinds, and converts their values."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from t5x_like.cleaning.steps import Dropped

ARRAYS = {str: np.object_, dict: np.object_, bool: np.bool_, int: np.int64, float: np.float64}
NAMES = {str: "text", dict: "JSON", bool: "bool", int: "integer", float: "number"}
Fields = Mapping[str, str] | Sequence[str] | None  # {new name: name in the record}, names to keep, or all fields


def from_numpy(value: Any) -> Any:
    """Converts a NumPy array or number to Python lists and numbers; returns other values unchanged."""
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def to_python(value: Any) -> Any:
    """Converts an example of tf.data to Python: bytes to text, arrays to lists, at any depth."""
    value = from_numpy(value)
    if isinstance(value, Mapping):
        return {name: to_python(child) for name, child in value.items()}
    if isinstance(value, list):
        return [to_python(child) for child in value]
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else value


@dataclass(frozen=True)
class Kind:
    """The kind of a field: `of` is str, bool, int, float, dict (JSON, stored as text), or None for an empty list."""

    of: type | None
    many: bool = False

    def __str__(self) -> str:
        name = "nothing" if self.of is None else NAMES[self.of]
        return f"list of {name}" if self.many else name

    @property
    def element(self) -> type:
        """The type of one element; text if unknown."""
        return self.of or str

    def merge(self, other: "Kind") -> "Kind":
        """Returns the common kind: int with float gives float, an empty list takes the other kind, else `self`."""
        if self.many != other.many:
            return self
        if self.of is None or (self.of, other.of) == (int, float):
            return other
        return self

    def to_array(self, value: Any) -> Any:
        """Converts a value to bytes, a NumPy number or an array.

        Raises:
          TypeError, OverflowError: the value is of another kind.
          UnicodeError: the text is not UTF-8.
        """
        if isinstance(value, str) and self.of is str and not self.many:  # the most frequent case
            return value.encode("utf-8")
        value = from_numpy(value)
        if self.many:
            if not isinstance(value, list | tuple):
                raise TypeError(f"expected {self}, got {infer_kind(value)}")
            return np.array([self.to_scalar(each) for each in value], ARRAYS[self.element])
        scalar = self.to_scalar(value)
        return scalar if isinstance(scalar, bytes) else ARRAYS[self.element](scalar)

    def to_scalar(self, value: Any) -> Any:
        """Converts one value; text and JSON become UTF-8 bytes."""
        kind = infer_kind(value)
        if self.of is dict and (kind.of is dict or kind.many):
            return json.dumps(value, ensure_ascii=False).encode("utf-8")
        if kind.many or kind.merge(Kind(self.of)).of is not self.element:
            raise TypeError(f"expected {Kind(self.element)}, got {kind}")
        if isinstance(value, bytes):
            value.decode("utf-8")
            return value
        return value.encode("utf-8") if isinstance(value, str) else value


def infer_kind(value: Any) -> Kind:
    """Returns the kind of a value; nesting deeper than a list is JSON.

    Raises:
      TypeError: the value fits neither a tensor nor JSON.
    """
    value = from_numpy(value)
    for kind in (bool, int, float):
        if isinstance(value, kind):
            return Kind(kind)
    if isinstance(value, str | bytes):
        return Kind(str)
    if isinstance(value, list | tuple):
        return infer_list_kind(value)
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"{type(value).__name__} ({error})") from error
    return Kind(dict)


def infer_list_kind(values: Sequence) -> Kind:
    """Returns the kind of a list: a list of one element kind, or JSON."""
    if not values:
        return Kind(None, many=True)
    if any(each is None or isinstance(each, list | tuple | dict) for each in values):
        try:
            json.dumps(values)
        except (TypeError, ValueError, RecursionError) as error:
            raise TypeError(f"list ({error})") from error
        return Kind(dict)
    kinds = [infer_kind(each) for each in values]
    common = kinds[0]
    for kind in kinds[1:]:
        common = common.merge(kind)
    if any(kind.merge(common) != common for kind in kinds):
        return Kind(dict)
    return Kind(common.of, many=True)


def get_field(record: Mapping, name: str) -> Any:
    """Returns a field by name or by dotted path (`translation.en`); None if absent."""
    if name in record:
        return record[name]
    value: Any = record
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def normalize_fields(fields: Fields) -> dict[str, str] | None:
    """Returns `fields` as {new name: name in the record}; None for all fields.

    Raises:
      ValueError: `fields` is a string.
    """
    if fields is None or isinstance(fields, Mapping):
        return fields if fields is None else dict(fields)
    if isinstance(fields, str):
        raise ValueError(f"fields={fields!r} is a string; give a list of names, or {{new name: name}}")
    return {name: name for name in fields}


def select_fields(record: Mapping, names: Mapping[str, str]) -> dict | Dropped:
    """Selects and renames fields; `names` is {new name: name in the record}."""
    values = {new: get_field(record, old) for new, old in names.items()}
    missing = [names[new] for new, value in values.items() if value is None]
    if missing:
        present = ", ".join(name for name, value in record.items() if value is not None)[:200]
        return Dropped("reading.missing_field", f"no field {missing[0]!r} (found: {present or 'none'})")
    return values


def infer_kinds(examples: Iterable[Mapping]) -> dict[str, Kind]:
    """Returns the kind of each field: that of most examples, int widened to float if there are both.

    Examples of another kind are dropped and counted when they are read.

    Raises:
      ValueError: a field fits no tensor in any example.
    """
    counts: dict[str, Counter[Kind]] = {}
    failures: dict[str, TypeError] = {}
    for example in examples:
        for name, value in example.items():
            kinds = counts.setdefault(name, Counter())
            try:
                kinds[infer_kind(value)] += 1
            except TypeError as error:
                failures.setdefault(name, error)
    for name, kinds in counts.items():
        if not kinds:
            raise ValueError(
                f"field {name!r} is a {failures[name]}; select the other fields with fields=..., without it"
            ) from failures[name]
    return {name: common_kind(kinds) for name, kinds in counts.items()}


def common_kind(counts: Counter[Kind]) -> Kind:
    """The most frequent kind, the first of several, widened by the others."""
    kind, *others = (kind for kind, _ in counts.most_common())
    for other in others:
        kind = kind.merge(other)
    return Kind(kind.element, kind.many)


def to_arrays(example: Mapping, kinds: Mapping[str, Kind]) -> dict | Dropped:
    """Converts the fields of an example to the values of tensors."""
    arrays = {}
    for name, kind in kinds.items():
        try:
            arrays[name] = kind.to_array(example[name])
        except (UnicodeEncodeError, UnicodeDecodeError) as error:
            return Dropped("reading.invalid_utf8", f"field {name!r}: {error.reason} at {error.start}")
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            return Dropped("reading.wrong_type", f"field {name!r}: {str(error)[:200]}")
    return arrays

"""Fields of records as values that tensors hold: which fields, of which kind, and what does not fit."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from t5x_like.cleaning.steps import Dropped

ARRAYS = {str: np.object_, dict: np.object_, bool: np.bool_, int: np.int64, float: np.float64}
NAMES = {str: "text", dict: "JSON", bool: "flag", int: "whole number", float: "number"}
Fields = Mapping[str, str] | Sequence[str] | None  # {new name: name in the record}, names kept as they are, or all


def plain(value: Any) -> Any:
    """NumPy's arrays and numbers as Python's."""
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


@dataclass(frozen=True)
class Kind:
    """What a field holds: `of` is str, bool, int, float, or dict where JSON is written as text; None of an empty list."""

    of: type | None
    many: bool = False

    def __str__(self) -> str:
        name = NAMES.get(self.of, "nothing")
        return f"list of {name}" if self.many else name

    def joined(self, other: "Kind") -> "Kind":
        """Whole numbers among numbers are numbers, and an empty list is of any kind; otherwise the first stays."""
        if self.many != other.many:
            return self
        if self.of is None or (self.of, other.of) == (int, float):
            return other
        return self

    def array(self, value: Any) -> Any:
        """A value as bytes, NumPy number or array.

        Raises:
          TypeError, OverflowError: it is of another kind.
          UnicodeError: text that is not UTF-8.
        """
        if isinstance(value, str) and self.of is str and not self.many:  # nearly all there is
            return value.encode("utf-8")
        value = plain(value)
        if self.many:
            if not isinstance(value, list | tuple):
                raise TypeError(f"{kind_of(value)} in place of {self}")
            return np.array([self.scalar(each) for each in value], ARRAYS[self.of or str])
        one = self.scalar(value)
        return one if isinstance(one, bytes) else ARRAYS[self.of](one)

    def scalar(self, value: Any) -> Any:
        """One value; text and JSON as UTF-8."""
        kind = kind_of(value)
        if self.of is dict and (kind.of is dict or kind.many):
            return json.dumps(value, ensure_ascii=False).encode("utf-8")
        if kind.many or kind.joined(Kind(self.of)).of is not (self.of or str):
            raise TypeError(f"{kind} in place of {Kind(self.of or str)}")
        if isinstance(value, bytes):
            value.decode("utf-8")
            return value
        return value.encode("utf-8") if isinstance(value, str) else value


def kind_of(value: Any) -> Kind:
    """The kind of a value; what is nested deeper than a list is JSON.

    Raises:
      TypeError: no tensor and no JSON holds it.
    """
    value = plain(value)
    for kind in (bool, int, float):
        if isinstance(value, kind):
            return Kind(kind)
    if isinstance(value, str | bytes):
        return Kind(str)
    if isinstance(value, list | tuple):
        return kind_of_list(value)
    try:
        json.dumps(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{type(value).__name__} ({error})") from error
    return Kind(dict)


def kind_of_list(values: Sequence) -> Kind:
    """A list of one kind, or JSON."""
    if not values:
        return Kind(None, many=True)
    if any(each is None or isinstance(each, list | tuple | dict) for each in values):
        json.dumps(values)
        return Kind(dict)
    kinds = [kind_of(each) for each in values]
    joined = kinds[0]
    for kind in kinds[1:]:
        joined = joined.joined(kind)
    if any(kind.joined(joined) != joined for kind in kinds):
        return Kind(dict)
    return Kind(joined.of, many=True)


def value_of(record: Mapping, name: str) -> Any:
    """A field by its name, or by a path into dictionaries (`translation.en`); None where it is absent."""
    if name in record:
        return record[name]
    value: Any = record
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def named(fields: Fields) -> dict[str, str] | None:
    """{new name: name in the record}."""
    if fields is None or isinstance(fields, Mapping):
        return fields if fields is None else dict(fields)
    if isinstance(fields, str):
        raise ValueError(f"fields={fields!r} is one text; give a list of names, or {{new name: name}}")
    return {name: name for name in fields}


def chosen(record: Mapping, names: Mapping[str, str]) -> dict | Dropped:
    """The wanted fields under their new names."""
    values = {new: value_of(record, old) for new, old in names.items()}
    missing = [names[new] for new, value in values.items() if value is None]
    if missing:
        there = ", ".join(name for name, value in record.items() if value is not None)[:200]
        return Dropped("reading.missing_field", f"no field {missing[0]!r} (found: {there or 'none'})")
    return values


def kinds_of(examples: Iterable[Mapping]) -> dict[str, Kind]:
    """The kind of each field, that of the first example; later ones make whole numbers numbers.

    Raises:
      ValueError: a field of the first example that no tensor holds.
    """
    kinds: dict[str, Kind] = {}
    for number, example in enumerate(examples):
        for name, value in example.items():
            try:
                kind = kind_of(value)
            except TypeError as error:
                if number:
                    continue  # dropped and counted when it is read
                raise ValueError(
                    f"field {name!r} is a {error}; name the fields to take by fields=..., without it"
                ) from error
            kinds[name] = kinds[name].joined(kind) if name in kinds else kind
    return {name: kind if kind.of else Kind(str, kind.many) for name, kind in kinds.items()}


def arrays(example: Mapping, kinds: Mapping[str, Kind]) -> dict | Dropped:
    """The values of an example as what tensors hold."""
    made = {}
    for name, kind in kinds.items():
        try:
            made[name] = kind.array(example[name])
        except UnicodeError as error:
            return Dropped("reading.invalid_utf8", f"field {name!r}: {error.reason} at {error.start}")
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            return Dropped("reading.wrong_type", f"field {name!r}: {str(error)[:200]}")
    return made

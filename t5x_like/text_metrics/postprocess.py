"""Turns a model's text, or a target, into what a metric compares: seqio's `postprocess(text, example=None, is_target=False)`.

Set options with functools.partial. Fields of an example may be bytes and arrays.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?|[-+]?\.\d+")
LETTER = re.compile(r"\b([A-Z])\b")


def to_python(value: Any) -> Any:
    """Bytes as text and arrays as lists."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [to_python(each) for each in value]
    return value.decode("utf-8") if isinstance(value, bytes) else value


def strip(text: str, example: Mapping | None = None, is_target: bool = False) -> str:
    """Removes space around the text."""
    return text.strip()


def select_answers(
    text: str, example: Mapping | None = None, is_target: bool = False, field: str = "answers"
) -> str | list[str]:
    """A target becomes all accepted answers, the `field` of its example; a prediction is stripped."""
    return to_python(example[field]) if is_target and example is not None else text.strip()


def parse_number(
    text: str, example: Mapping | None = None, is_target: bool = False, field: str | None = None, otherwise: float = 0.0
) -> float:
    """The first number of a text, or `otherwise`; a target is the `field` of its example, if given."""
    if is_target and field is not None and example is not None:
        return float(to_python(example[field]))
    match = NUMBER.search(text)
    return float(match.group()) if match else otherwise


def add_group(text: str, example: Mapping | None = None, is_target: bool = False, field: str = "group") -> dict | str:
    """A target becomes {"group": the `field` of its example, "value": its text}; a prediction is stripped."""
    return (
        {"group": to_python(example[field]), "value": text.strip()}
        if is_target and example is not None
        else text.strip()
    )


def find_letter(text: str, example: Mapping | None = None, is_target: bool = False) -> str:
    """The first isolated capital letter, such as the choice A, B, C or D; "" if there is none."""
    match = LETTER.search(text)
    return match.group(1) if match else ""


def cut_at(text: str, stops: Sequence[str]) -> str:
    """The text before the first of the `stops`."""
    return text[: min((position for stop in stops if (position := text.find(stop)) >= 0), default=len(text))]


def extract_problem(
    text: str, example: Mapping | None = None, is_target: bool = False, stops: Sequence[str] = (), samples: bool = False
) -> dict | str | list[str]:
    """A target becomes the fields of its example (prompt, test, ...), a completion the text before the first of `stops`."""
    if is_target and example is not None:
        return {name: to_python(value) for name, value in example.items()}
    return cut_at(text, stops)

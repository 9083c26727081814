"""From what a model wrote, or a target, to what a metric compares: seqio's `postprocess(text, example=None, is_target=False)`.

Options by functools.partial. Fields of an example may come as bytes and arrays.
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
    """The text without space around it."""
    return text.strip()


def select_answers(
    text: str, example: Mapping | None = None, is_target: bool = False, field: str = "answers"
) -> str | list[str]:
    """A target becomes all accepted answers, the example's `field`."""
    return to_python(example[field]) if is_target and example is not None else text.strip()


def parse_number(
    text: str, example: Mapping | None = None, is_target: bool = False, field: str | None = None, otherwise: float = 0.0
) -> float:
    """The first number of a text, `otherwise` if it has none; a target is the example's `field` if that is named."""
    if is_target and field is not None and example is not None:
        return float(to_python(example[field]))
    found = NUMBER.search(text)
    return float(found.group()) if found else otherwise


def add_group(text: str, example: Mapping | None = None, is_target: bool = False, field: str = "group") -> dict | str:
    """A target becomes {"group": the example's `field`, "value": its text}."""
    return (
        {"group": to_python(example[field]), "value": text.strip()}
        if is_target and example is not None
        else text.strip()
    )


def find_letter(text: str, example: Mapping | None = None, is_target: bool = False) -> str:
    """The first capital letter that stands alone: the choice A, B, C or D; "" if there is none."""
    found = LETTER.search(text)
    return found.group(1) if found else ""


def cut_at(text: str, stops: Sequence[str]) -> str:
    """The text before the first of several marks."""
    return text[: min((place for stop in stops if (place := text.find(stop)) >= 0), default=len(text))]


def extract_problem(
    text: str, example: Mapping | None = None, is_target: bool = False, stops: Sequence[str] = (), samples: bool = False
) -> dict | str | list[str]:
    """A target becomes its example's fields (prompt, test, ...), a completion its text before the first of `stops`."""
    if is_target and example is not None:
        return {name: to_python(value) for name, value in example.items()}
    return cut_at(text, stops)

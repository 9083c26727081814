"""Turns a model's text, or a target, into what a metric compares: seqio's `postprocess(text, example=None, is_target=False)`.

Set options with functools.partial. Fields of an example may be bytes and arrays. A prediction ends at the first of `stops`, for
models that go on with questions of their own.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

FIRST_LETTER = re.compile(r"\(?([A-Z])(?:[).:,\n]|$)")
ANSWER_LETTER = re.compile(r"\b[Aa]nswer is:? \(?([A-Z])\b")


def to_python(value: Any) -> Any:
    """Bytes as text and arrays as lists."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [to_python(each) for each in value]
    return value.decode("utf-8") if isinstance(value, bytes) else value


def cut_at(text: str, stops: Sequence[str]) -> str:
    """The text before the first of the `stops`."""
    return text[: min((position for stop in stops if (position := text.find(stop)) >= 0), default=len(text))]


def strip(text: str, example: Mapping | None = None, is_target: bool = False, stops: Sequence[str] = ()) -> str:
    """Removes space around the text."""
    return (text if is_target else cut_at(text, stops)).strip()


def select_answers(
    text: str,
    example: Mapping | None = None,
    is_target: bool = False,
    field: str = "answers",
    stops: Sequence[str] = (),
) -> str | list[str]:
    """A target becomes all accepted answers, the `field` of its example; a prediction is stripped (T5's `qa`)."""
    if is_target and example is not None:
        return to_python(example[field])
    return strip(text, example, is_target, stops)


def parse_number(
    text: str,
    example: Mapping | None = None,
    is_target: bool = False,
    field: str | None = None,
    otherwise: float = -1.0,
    stops: Sequence[str] = (),
) -> float:
    """The number that the whole text is, or `otherwise` (T5's `string_to_float`); a target is the `field` of its example."""
    if is_target and field is not None and example is not None:
        return float(to_python(example[field]))
    try:
        number = float(strip(text, example, is_target, stops))
    except ValueError:
        return otherwise
    return number if math.isfinite(number) else otherwise


def add_group(
    text: str,
    example: Mapping | None = None,
    is_target: bool = False,
    field: str = "group",
    stops: Sequence[str] = (),
) -> dict | str:
    """A target becomes {"group": the `field` of its example, "value": its text}; a prediction is stripped."""
    value = strip(text, example, is_target, stops)
    return {"group": to_python(example[field]), "value": value} if is_target and example is not None else value


def find_letter(text: str, example: Mapping | None = None, is_target: bool = False, stops: Sequence[str] = ()) -> str:
    """The letter of a choice such as A, B, C or D; "" if there is none.

    It is the letter that the text begins with, alone or before one of ").:,", or the one after the first "answer is". MMLU's
    own script (Hendrycks et al. 2021, evaluate.py) has no text: it compares the log-probabilities of the letters, which is
    `text_metrics.rank_classification`. On generated text, lm-evaluation-harness (mmlu_generative, mmlu_flan) does as this does.
    """
    text = strip(text, example, is_target, stops)
    match = FIRST_LETTER.match(text) or ANSWER_LETTER.search(text)
    return match.group(1) if match else ""


def extract_problem(
    text: str, example: Mapping | None = None, is_target: bool = False, stops: Sequence[str] = (), samples: bool = False
) -> dict | str | list[str]:
    """A target becomes the fields of its example (prompt, test, ...), a completion the text before the first of `stops`."""
    if is_target and example is not None:
        return {name: to_python(value) for name, value in example.items()}
    return cut_at(text, stops)

"""The interface of cleaning steps: a step returns a document unchanged, Edited, or Dropped by a named rule."""

import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

Document = dict[str, Any]  # {"text", "id"} and other fields of the source


@dataclass(frozen=True)
class Dropped:
    """The document is dropped because of `rule`, written `step.rule`; `detail` gives the measured value."""

    rule: str
    detail: str = ""


@dataclass(frozen=True)
class Edited:
    """The document was changed; `counts` is the number of changes by rule."""

    document: Document
    counts: Mapping[str, int]


Step = Callable[[Document], Document | Edited | Dropped]
Result = TypeVar("Result")


def start(step: Any) -> Step:
    """The function of a step for one run. Steps that remember documents or build an index have a method start() for it."""
    return step.start() if hasattr(step, "start") else step


STOPS = (OSError, ImportError, MemoryError)  # errors of a run, not of one document


def attempt(rule: str, function: Callable[..., Result], *args: Any) -> Result | Dropped:
    """The result of `function(*args)` for one document; an error becomes a Dropped, so that one document stops no run.

    Raises:
      OSError, ImportError, MemoryError: an error of the run.
    """
    try:
        return function(*args)
    except STOPS:
        raise
    except Exception as error:
        return Dropped(rule, f"{type(error).__name__}: {str(error)[:200]}")


def error_rule(step: Any) -> str:
    """The rule of a document for which a step raises an error: `error.` and the step's name."""
    return f"error.{getattr(step, '__qualname__', type(step).__name__).partition('.')[0]}"


class StatefulStep:
    """A step whose decision on a document depends on the documents before it, in three parts.

    sketch(document) is pure, so several processes can share the work. make_decider() returns a function
    (sketch, id) -> decision with memory, which is called in the order of documents. apply(document, decision) is pure.
    """

    def sketch(self, document: Document) -> Any:
        """What the decision needs to know of a document."""
        raise NotImplementedError

    def make_decider(self) -> Callable[[Any, Any], Any]:
        """A new function (sketch, id) -> decision."""
        raise NotImplementedError

    def apply(self, document: Document, decision: Any) -> Document | Edited | Dropped:
        """Applies a decision: None keeps the document, a Dropped drops it."""
        return document if decision is None else decision

    def start(self) -> Step:
        """The function of one run in one process."""
        decide = self.make_decider()

        def step(document: Document) -> Document | Edited | Dropped:
            return self.apply(document, decide(self.sketch(document), document.get("id")))

        step.__qualname__ = type(self).__name__
        return step


Measure = tuple[str, float, float, float]  # rule, value, smallest and largest allowed value


def first_violation(step: str, measures: Iterable[Measure]) -> Dropped | None:
    """A Dropped for the first measure outside its bounds; later measures are not computed."""
    for rule, value, smallest, largest in measures:
        if not smallest <= value <= largest:
            bounds = f"at least {smallest:g}" if value < smallest else f"at most {largest:g}"
            return Dropped(f"{step}.{rule}", f"{value:.4g}, allowed {bounds}")
    return None


def normalize_lines(text: str) -> str:
    """The text with line feeds for CRLF, and empty lines for lines of white space alone; measures of lines are taken on it."""
    return "\n".join(line.removesuffix("\r") if line.strip() else "" for line in text.split("\n"))


# Control characters except tab, line feed, vertical tab, form feed and carriage return; and the replacement character.
CONTROL_RUN = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\ufffd]+")


def decode(text: str | bytes) -> str:
    """Decodes UTF-8 bytes, or checks a string.

    Raises:
      UnicodeError: not valid UTF-8 (a string with lone surrogates).
    """
    if isinstance(text, bytes):
        return text.decode("utf-8")
    text.encode("utf-8")
    return text


def longest_marks(text: str, most: int) -> int:
    """`most` + 1 if so many combining marks follow each other, which normalisation sorts (UAX #15), else 0."""
    for match in re.finditer(rf"[^\w\s\x00-\u02ff]{{{most + 1},}}", text):
        run = 0
        for character in match[0]:
            run = run + 1 if unicodedata.combining(character) else 0
            if run > most:
                return run
    return 0


@dataclass(frozen=True)
class ReadableFilter:
    """Drops documents that are not text: no field `text`, empty, not UTF-8, too long, or binary. Normalises to NFC.

    A few control and replacement characters are removed; more than `max_control_share` means binary data. More combining marks in
    a row than `max_marks` are no text either, and normalising them takes quadratic time.
    """

    max_characters: int = 10_000_000
    max_control_share: float = 0.01
    max_marks: int = 64

    def __call__(self, document: Document) -> Document | Edited | Dropped:
        text = document.get("text") if isinstance(document, Mapping) else None
        if not isinstance(text, str | bytes):
            return Dropped("readable.no_text", f"text is of type {type(text).__name__}")
        if len(text) > self.max_characters:
            return Dropped("readable.too_long", f"{len(text)} characters, allowed at most {self.max_characters}")
        try:
            text = decode(text)
        except UnicodeError as error:
            return Dropped("readable.invalid_utf8", str(error)[:100])
        return self.remove_control(document, text)

    def remove_control(self, document: Document, text: str) -> Document | Edited | Dropped:
        """Removes control characters, or drops the document if there are too many."""
        clean = CONTROL_RUN.sub("", text)
        control = len(text) - len(clean)
        if control and control > math.floor(self.max_control_share * len(normalize_lines(text))):
            return Dropped("readable.binary", f"{control} control characters among {len(text)}")
        if not clean.strip():
            return Dropped("readable.empty")
        if marks := longest_marks(clean, self.max_marks):
            return Dropped(
                "readable.marks", f"{marks} combining marks in a row or more, allowed at most {self.max_marks}"
            )
        document = {**document, "text": unicodedata.normalize("NFC", clean)}
        return Edited(document, {"readable.control_characters": control}) if control else document

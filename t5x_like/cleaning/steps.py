"""What a cleaning step is: a document comes back as it was, edited, or dropped by a named rule."""

import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Document = dict[str, Any]  # {"text", "id"} and whatever else the source gave


@dataclass(frozen=True)
class Dropped:
    """The document is left out because of `rule`, written `step.rule`; `detail` says what was found."""

    rule: str
    detail: str = ""


@dataclass(frozen=True)
class Edited:
    """The document goes on changed; `counts` says how often each rule changed it."""

    document: Document
    counts: Mapping[str, int]


Step = Callable[[Document], Document | Edited | Dropped]


def begin(step) -> Step:
    """The function of one run: a step that remembers documents, or builds an index, does so in what start() gives."""
    return step.start() if hasattr(step, "start") else step


class Remembering:
    """A step whose verdict on a document depends on those before it, in three parts.

    sketch(document) is pure, so that processes may share that work; judge() gives a function (sketch, id) -> verdict that
    remembers, to be called in the documents' order; apply(document, verdict) is pure again.
    """

    def sketch(self, document: Document) -> Any:
        raise NotImplementedError

    def judge(self) -> Callable[[Any, Any], Any]:
        raise NotImplementedError

    def apply(self, document: Document, verdict: Any) -> Document | Edited | Dropped:
        """A verdict is None, to keep the document as it is, or a Dropped."""
        return document if verdict is None else verdict

    def start(self) -> Step:
        """The step of one run in one process."""
        judge = self.judge()
        return lambda document: self.apply(document, judge(self.sketch(document), document.get("id")))


Measure = tuple[str, float, float, float]  # rule, value, least and most allowed


def first_outside(step: str, measures: Iterable[Measure]) -> Dropped | None:
    """The first measure outside its bounds, as a drop; later measures are not worked out."""
    for rule, value, least, most in measures:
        if not least <= value <= most:
            bounds = f"at least {least:g}" if value < least else f"at most {most:g}"
            return Dropped(f"{step}.{rule}", f"{value:.4g}, allowed {bounds}")
    return None


# Control characters but tab, line feed, vertical tab, form feed and carriage return; and the replacement character.
CONTROL_RUN = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\ufffd]+")


def decode(text: str | bytes) -> str:
    """Text from UTF-8 bytes, or as it is; UnicodeError if it is not valid UTF-8 (lone surrogates are not)."""
    if isinstance(text, bytes):
        return text.decode("utf-8")
    text.encode("utf-8")
    return text


@dataclass(frozen=True)
class Readable:
    """Drops what is no text: no `text` field, empty, not UTF-8, too long, or binary junk. Normalises to NFC.

    Control and replacement characters are removed where they are rare, and are a sign of binary data where they are not.
    """

    max_characters: int = 10_000_000
    max_control_share: float = 0.01

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
        return self.without_control(document, text)

    def without_control(self, document: Document, text: str) -> Document | Edited | Dropped:
        """The document without its few control characters."""
        clean = CONTROL_RUN.sub("", text)
        control = len(text) - len(clean)
        if control > math.floor(self.max_control_share * len(text)):
            return Dropped("readable.binary", f"{control} control characters among {len(text)}")
        if not clean.strip():
            return Dropped("readable.empty")
        document = {**document, "text": unicodedata.normalize("NFC", clean)}
        return Edited(document, {"readable.control_characters": control}) if control else document

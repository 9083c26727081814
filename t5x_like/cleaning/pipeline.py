"""Applies steps to a stream of documents."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from t5x_like.cleaning.report import Report
from t5x_like.cleaning.steps import Document, Dropped, Edited, ReadableFilter, Step, attempt, error_rule, start


@dataclass
class Candidate:
    """A document that no step has dropped yet, its number of characters when read, edits by rule, and position in its source."""

    document: Document
    characters: int
    edits: Counter[str] = field(default_factory=Counter)
    position: int = 0

    def apply(self, steps: Iterable[Step]) -> Dropped | None:
        """Applies the steps up to the one that drops the document; returns its Dropped, or None if all pass."""
        for step in steps:
            if dropped := self.take(attempt(error_rule(step), step, self.document)):
                return dropped
        return None

    def take(self, result: Document | Edited | Dropped) -> Dropped | None:
        """Takes the result of a step; returns it if it is a Dropped."""
        if isinstance(result, Dropped):
            return result
        if isinstance(result, Edited):
            self.edits.update(result.counts)
            result = result.document
        self.document = result
        return None


def make_candidate(document: Any, position: int) -> Candidate:
    """A candidate of any object that a source yields; `position` is its id if it has none."""
    if isinstance(document, dict) and document.get("id") is None:
        document = {**document, "id": str(position)}
    text = document.get("text") if isinstance(document, dict) else None
    return Candidate(document, len(text) if isinstance(text, str | bytes) else 0, position=position)


@dataclass(frozen=True)
class Pipeline:
    """Applies `readable` and then `steps`; each document is counted once and dropped at most once."""

    steps: tuple[Any, ...]
    readable: ReadableFilter = field(default_factory=ReadableFilter)

    def __call__(self, documents: Iterable[Document | Dropped], report: Report) -> Iterator[Document]:
        """Yields the kept documents in order and adds counts to `report`. A source may yield Dropped for unreadable documents."""
        steps = [start(step) for step in (self.readable, *self.steps)]
        for position, document in enumerate(documents):
            candidate = make_candidate(document, position)
            dropped = document if isinstance(document, Dropped) else candidate.apply(steps)
            if dropped:
                report.add_dropped(candidate.document, candidate.characters, dropped)
            else:
                report.add_kept(candidate.document, candidate.characters, candidate.edits)
                yield candidate.document

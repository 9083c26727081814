"""Steps one after another over a stream of documents."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from t5x_like.cleaning.report import Report
from t5x_like.cleaning.steps import Document, Dropped, Edited, Readable, Step, begin


@dataclass
class Candidate:
    """A document that nothing has dropped yet, the characters it was read with, and its edits by rule."""

    document: Document
    characters: int
    edits: Counter[str] = field(default_factory=Counter)

    def through(self, steps: Iterable[Step]) -> Dropped | None:
        """Takes all steps, or those up to the one that drops the document."""
        for step in steps:
            result = step(self.document)
            if isinstance(result, Dropped):
                return result
            if isinstance(result, Edited):
                self.edits.update(result.counts)
                result = result.document
            self.document = result
        return None


def candidate(document: Any, position: int) -> Candidate:
    """What a source gave, at a position in it; it may be anything."""
    if isinstance(document, dict) and document.get("id") is None:
        document = {**document, "id": str(position)}
    text = document.get("text") if isinstance(document, dict) else None
    return Candidate(document, len(text) if isinstance(text, str | bytes) else 0)


@dataclass(frozen=True)
class Pipeline:
    """`steps` in their order, after `readable`; each document is counted and dropped at most once."""

    steps: tuple[Any, ...]
    readable: Readable = field(default_factory=Readable)

    def __call__(self, documents: Iterable[Document | Dropped], report: Report) -> Iterator[Document]:
        """The kept documents in order; what happened is added to `report`. A source may yield Dropped for what it lost."""
        steps = [begin(step) for step in (self.readable, *self.steps)]
        for position, document in enumerate(documents):
            found = candidate(document, position)
            dropped = document if isinstance(document, Dropped) else found.through(steps)
            if dropped:
                report.add_dropped(found.document, found.characters, dropped)
            else:
                report.add_kept(found.document, found.characters, found.edits)
                yield found.document

"""Steps one after another over a stream of documents."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from t5x_like.cleaning.report import Report
from t5x_like.cleaning.steps import Document, Dropped, Edited, Readable, Step, begin


@dataclass(frozen=True)
class Pipeline:
    """`steps` in their order, after `readable`; each document is counted and dropped at most once."""

    steps: tuple[Any, ...]
    readable: Readable = field(default_factory=Readable)

    def __call__(self, documents: Iterable[Document | Dropped], report: Report) -> Iterator[Document]:
        """The kept documents in order; what happened is added to `report`. A source may yield Dropped for what it lost."""
        steps = [begin(step) for step in (self.readable, *self.steps)]
        for position, document in enumerate(documents):
            if isinstance(document, dict) and document.get("id") is None:
                document = {**document, "id": str(position)}
            result = document if isinstance(document, Dropped) else through(steps, document, report)
            if isinstance(result, Dropped):
                report.add_dropped(document, result)
            else:
                report.add_kept(document, result)
                yield result


def through(steps: Iterable[Step], document: Document, report: Report) -> Document | Dropped:
    """One document through all steps, or to the first that drops it; edits of a document later dropped do not count."""
    edits: list[tuple[str, int]] = []
    for step in steps:
        result = step(document)
        if isinstance(result, Dropped):
            return result
        if isinstance(result, Edited):
            edits.extend(result.counts.items())
            result = result.document
        document = result
    for rule, count in edits:
        report.edits[rule] += count
    return document

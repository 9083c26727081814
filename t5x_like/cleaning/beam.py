"""A pipeline on Apache Beam: keeps the same documents as the in-process pipeline, in no particular order.

Counts are Beam counters; edits of documents that a later step drops are counted too. Stateful steps need an order of
documents, so only ExactDedup is supported: it groups by hash and keeps the smallest id. For the others, for folders of files
and for reports use `t5x_like clean`.
"""

from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any

from t5x_like.cleaning.dedup import ExactDedup
from t5x_like.cleaning.pipeline import Pipeline, make_candidate
from t5x_like.cleaning.steps import Document, Dropped, StatefulStep, start

NAMESPACE = "cleaning"  # of the counters: read, kept, and each rule
Transform = Any  # apache_beam.PTransform
Best = tuple[Document | None, int]  # the document with the smallest id so far, and the number of documents


def clean(documents: Any, pipeline: Pipeline) -> Any:
    """Applies a pipeline to a PCollection of documents ({"text", "id"}) with unique ids; returns that of the kept ones.

    Raises:
      ValueError: a stateful step other than ExactDedup.
      ImportError: Apache Beam is not installed.
    """
    for step in pipeline.steps:
        if isinstance(step, StatefulStep) and not isinstance(step, ExactDedup):
            raise ValueError(
                f"{type(step).__name__} needs the documents in their order, which Beam does not keep; remove it here and "
                "run it with t5x_like clean"
            )
    beam = import_beam()
    documents = documents | "read" >> beam.Map(count_document, "read")
    documents = documents | "readable" >> step_transform(pipeline.readable)
    for index, step in enumerate(pipeline.steps):
        transform = dedup_transform(step) if isinstance(step, ExactDedup) else step_transform(step)
        documents = documents | f"{index} {type(step).__name__}" >> transform
    return documents | "kept" >> beam.Map(count_document, "kept")


def import_beam() -> ModuleType:
    """The package apache_beam.

    Raises:
      ImportError: it is not installed.
    """
    try:
        import apache_beam
    except ImportError as error:
        raise ImportError("cleaning on Beam needs apache-beam: pip install apache-beam") from error
    return apache_beam


def count_document(document: Document, name: str) -> Document:
    """Counts the document and returns it."""
    increment(name)
    return document


def increment(name: str, by: int = 1) -> None:
    """Adds to a Beam counter."""
    import_beam().metrics.Metrics.counter(NAMESPACE, name).inc(by)


def step_transform(step: Any) -> Transform:
    """The transform of one stateless step."""
    beam = import_beam()
    do_fn: Any = beam.DoFn

    class Stage(do_fn):
        """Starts the step once per process, because it may build an index."""

        def setup(self):
            self.steps = [start(step)]

        def process(self, document: Document | Dropped) -> Iterator[Document]:
            candidate = make_candidate(document, 0)
            dropped = document if isinstance(document, Dropped) else candidate.apply(self.steps)
            if dropped:
                increment(dropped.rule)
                return
            for rule, count in candidate.edits.items():
                increment(rule, count)
            yield candidate.document

    return beam.ParDo(Stage())


def dedup_transform(step: ExactDedup) -> Transform:
    """The transform that keeps, of documents with equal hashes, the one with the smallest id."""
    beam = import_beam()
    transform: Any = beam.PTransform
    combine_fn: Any = beam.CombineFn

    class Keyed(transform):
        def expand(self, documents: Any) -> Any:
            keyed = documents | beam.Map(lambda document: (step.sketch(document), document))
            return keyed | beam.CombinePerKey(First()) | beam.Values()

    class First(combine_fn):
        """The accumulator is a `Best`."""

        def create_accumulator(self) -> Best:
            return None, 0

        def add_input(self, best: Best, document: Document) -> Best:
            return least_id(best[0], document), best[1] + 1

        def merge_accumulators(self, accumulators: Iterable[Best]) -> Best:
            best: Document | None = None
            total = 0
            for document, count in accumulators:
                best, total = least_id(best, document), total + count
            return best, total

        def extract_output(self, best: Best) -> Document | None:
            increment("exact_dedup.copy", best[1] - 1)
            return best[0]

    return Keyed()


def least_id(one: Document | None, other: Document | None) -> Document | None:
    """The document with the smaller id; either may be None."""
    if one is None or other is None:
        return one or other
    return min(one, other, key=lambda document: str(document["id"]))

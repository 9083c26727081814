"""A pipeline on Apache Beam: the documents that the in-process pipeline keeps, in no order.

Counts are Beam's counters, those of edits also of documents that a later step drops.
Steps that remember need an order of documents: exact copies are found by key, where the least id is kept. Other such steps, and
whole folders of files with a report, are `t5x_like clean`.
"""

from t5x_like.cleaning.dedup import ExactDedup
from t5x_like.cleaning.pipeline import Pipeline, candidate
from t5x_like.cleaning.steps import Dropped, Remembering, begin

NAMESPACE = "cleaning"  # of the counters: read, kept, and each rule


def clean(documents, pipeline: Pipeline):
    """The PCollection of documents ({"text", "id"}) that a pipeline keeps of another; ids must differ.

    Raises:
      ValueError: a step that remembers and is not ExactDedup.
      ImportError: Apache Beam is missing.
    """
    for step in pipeline.steps:
        if isinstance(step, Remembering) and not isinstance(step, ExactDedup):
            raise ValueError(
                f"{type(step).__name__} needs the documents in their order, which Beam does not keep; leave it out here, and "
                "run it with t5x_like clean"
            )
    beam = imported()
    documents = documents | "read" >> beam.Map(counted, "read") | "readable" >> stage(pipeline.readable)
    for place, step in enumerate(pipeline.steps):
        name = f"{place} {type(step).__name__}"
        documents = documents | name >> (by_key(step) if isinstance(step, ExactDedup) else stage(step))
    return documents | "kept" >> beam.Map(counted, "kept")


def imported():
    """Apache Beam."""
    try:
        import apache_beam
    except ImportError as error:
        raise ImportError("cleaning on Beam needs apache-beam: pip install apache-beam") from error
    return apache_beam


def counted(document, name: str):
    """The document, one more counted."""
    count(name)
    return document


def count(name: str, by: int = 1) -> None:
    imported().metrics.Metrics.counter(NAMESPACE, name).inc(by)


def stage(step):
    """A transform that takes one step which remembers nothing."""
    beam = imported()

    class Stage(beam.DoFn):
        """Begins the step once in each process: it may build an index."""

        def setup(self):
            self.steps = [begin(step)]

        def process(self, document):
            found = document if isinstance(document, Dropped) else candidate(document, 0)
            dropped = found if isinstance(found, Dropped) else found.through(self.steps)
            if dropped:
                count(dropped.rule)
                return
            for rule, number in found.edits.items():
                count(rule, number)
            yield found.document

    return beam.ParDo(Stage())


def by_key(step: ExactDedup):
    """A transform that keeps, of the documents of one key, that of the least id."""
    beam = imported()

    class Keyed(beam.PTransform):
        def expand(self, documents):
            keyed = documents | beam.Map(lambda document: (step.sketch(document), document))
            return keyed | beam.CombinePerKey(First()) | beam.Values()

    class First(beam.CombineFn):
        """(the document of the least id, how many there were)."""

        def create_accumulator(self):
            return None, 0

        def add_input(self, held, document):
            return least(held[0], document), held[1] + 1

        def merge_accumulators(self, several):
            found = None, 0
            for document, number in several:
                found = least(found[0], document), found[1] + number
            return found

        def extract_output(self, held):
            count("exact_dedup.copy", held[1] - 1)
            return held[0]

    return Keyed()


def least(one, other):
    """That of the least id; either may be None."""
    if one is None or other is None:
        return one or other
    return min(one, other, key=lambda document: str(document["id"]))

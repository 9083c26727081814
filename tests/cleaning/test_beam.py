"""A pipeline on Beam keeps and counts the same documents as in process."""

import pytest

from t5x_like.cleaning import beam
from t5x_like.cleaning.contamination import Decontaminate
from t5x_like.cleaning.dedup import ExactDedup
from t5x_like.cleaning.gopher import GopherQuality
from t5x_like.cleaning.minhash import NearDedup
from t5x_like.cleaning.pii import RedactPII
from t5x_like.cleaning.pipeline import Pipeline
from t5x_like.cleaning.report import Report
from tests.cleaning.planted import document, prose

ITEM = " ".join(f"planted{n}" for n in range(15))


def test_beam_equals_in_process():
    apache_beam = pytest.importorskip("apache_beam")
    texts = [prose(n % 30, 12) for n in range(40)] + ["short", f"{prose(50)}\n{ITEM}", f"{prose(51)}\nTo a@b.org."]
    documents = [document(text, f"d{n:03}") for n, text in enumerate(texts)] + [{"text": None, "id": "none"}]
    pipeline = Pipeline((RedactPII(), GopherQuality(), ExactDedup(), Decontaminate({"item": ITEM})))
    report = Report()
    kept = {each["id"]: each["text"] for each in pipeline(documents, report)}
    found = []
    with apache_beam.Pipeline(runner="DirectRunner") as run:
        cleaned = beam.clean(run | apache_beam.Create(documents), pipeline)
        (
            cleaned
            | apache_beam.Map(lambda each: f"{each['id']}\t{each['text']!r}")
            | apache_beam.combiners.ToList()
            | ("check" >> apache_beam.Map(lambda lines: same(lines, kept)))
        )
    for counter in run.result.metrics().query()["counters"]:
        if counter.key.metric.namespace == beam.NAMESPACE:
            found.append((counter.key.metric.name, counter.committed))
    assert dict(found) == {"read": report.read, "kept": report.kept, **report.dropped, **report.edits}


def same(lines: list[str], kept: dict[str, str]) -> None:
    assert sorted(lines) == sorted(f"{name}\t{text!r}" for name, text in kept.items())


def test_stateful_steps_are_refused():
    with pytest.raises(ValueError, match="NearDedup needs the documents in their order"):
        beam.clean(None, Pipeline((NearDedup(),)))


def test_missing_beam_error_names_the_package(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "apache_beam", None)
    with pytest.raises(ImportError, match="pip install apache-beam"):
        beam.clean(None, Pipeline(()))

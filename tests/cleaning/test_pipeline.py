"""The pipeline: order, counts, the report, and input that is not text."""

import json
import random
import time

import pytest

from t5x_like.cleaning.c4 import C4
from t5x_like.cleaning.classifier_filters import LanguageFilter, QualityFilter
from t5x_like.cleaning.contamination import Decontaminate
from t5x_like.cleaning.dedup import ExactDedup, LineDedup
from t5x_like.cleaning.fineweb import FineWebQuality
from t5x_like.cleaning.gopher import GopherQuality
from t5x_like.cleaning.minhash import NearDedup
from t5x_like.cleaning.pii import RedactPII
from t5x_like.cleaning.pipeline import Pipeline
from t5x_like.cleaning.repetition import GopherRepetition
from t5x_like.cleaning.report import Report
from t5x_like.cleaning.steps import Dropped, Edited, ReadableFilter
from t5x_like.cleaning.word_list import WordList
from tests.cleaning.planted import document, prose

WEB = Pipeline((C4(), GopherQuality()))


def run(pipeline: Pipeline, documents) -> tuple[list, Report]:
    report = Report()
    return list(pipeline(documents, report)), report


def test_steps_run_in_order_and_each_document_is_counted_once():
    seen = []

    def first(document):
        seen.append(("first", document["id"]))
        return (
            Dropped("first.even")
            if int(document["id"]) % 2 == 0
            else Edited({**document, "text": "changed"}, {"first.edit": 2})
        )

    def second(document):
        seen.append(("second", document["id"]))
        assert document["text"] == "changed"
        return Dropped("second.three") if document["id"] == "3" else document

    kept, report = run(Pipeline((first, second)), ({"text": "some text"} for _ in range(6)))
    assert [document["id"] for document in kept] == ["1", "5"]
    assert seen[:3] == [("first", "0"), ("first", "1"), ("second", "1")]
    assert report.dropped == {"first.even": 3, "second.three": 1}
    assert report.edits == {"first.edit": 4}  # not those of the document that was dropped later
    assert (report.read, report.kept) == (6, 2)
    assert (report.characters_read, report.characters_kept) == (6 * 9, 2 * 7)


def test_documents_are_read_on_demand():
    """Documents are read on demand."""
    asked = []
    source = ({"text": prose(n), "id": asked.append(n)} for n in range(100))
    next(WEB(source, Report()))
    assert len(asked) == 1


JUNK = [
    ("no_text", {"id": "a"}),
    ("no_text", {"text": None}),
    ("no_text", {"text": 3}),
    ("no_text", "a string"),
    ("no_text", None),
    ("empty", {"text": ""}),
    ("empty", {"text": " \n\t"}),
    ("invalid_utf8", {"text": b"caf\xe9"}),
    ("invalid_utf8", {"text": "half \ud83d"}),
    ("invalid_utf8", {"text": "half", "id": 3} | {"text": b"\xff\xfe\x00"}),
    ("binary", {"text": random.Random(0).randbytes(4000).decode("latin-1")}),
    ("binary", {"text": bytes(1000)}),
    ("binary", {"text": "what was\ufffd\ufffd not UTF-8"}),
    ("too_long", {"text": "x" * 10_000_001}),
]


@pytest.mark.parametrize(("name", "junk"), JUNK)
def test_junk_is_a_counted_drop(name, junk, tmp_path):
    kept, report = run(WEB, [junk, document(prose(0))])
    assert len(kept) == 1
    assert report.dropped == {f"readable.{name}": 1}
    report.write(tmp_path)


def test_a_few_control_characters_are_removed_and_counted():
    kept, report = run(Pipeline(()), [document("e\u0301" + "text " * 100 + "\x00")])
    assert kept[0]["text"] == "\u00e9" + "text " * 100
    assert report.edits == {"readable.control_characters": 1}


def test_bytes_become_text():
    assert ReadableFilter()({"text": "naïve".encode()})["text"] == "naïve"


def test_the_report_is_one_page_and_json(tmp_path):
    documents = [document(f"<script>{number}", f"<b>{number}") for number in range(30)]
    _, report = run(WEB, [*documents, document(prose(0))])
    report.write(tmp_path / "new")
    page = (tmp_path / "new" / "report.html").read_text("utf-8")
    assert "<script" not in page and "http" not in page and "&lt;script" in page
    assert "1 of 31 documents kept" in page and "c4.sentences" in page
    written = json.loads((tmp_path / "new" / "report.json").read_text("utf-8"))
    assert written["dropped"] == {"c4.sentences": 30}
    assert len(written["examples"]["c4.sentences"]) == report.examples_per_rule


def test_merged_reports_equal_one_run():
    documents = [document(prose(n, sentences=n % 9 + 1), str(n)) for n in range(60)]
    _, whole = run(WEB, documents)
    (_, left), (_, right) = run(WEB, documents[:25]), run(WEB, documents[25:])
    left.merge(right)
    assert left.to_dict() == whole.to_dict()


ALPHABETS = (
    "a .\n",
    "#-•….\n ",
    "\u3042\u4e2d。\n ",
    "\u0645\u0631 \u0661\n",
    "0123456789 -+.:@()",
    "{}[]\"' \t\x1c\x85\u2028",
    "\U0001f600\u200b\u0301 ",
)
EVERY = (
    RedactPII(),
    LanguageFilter(lambda text: ("en", 1.0)),
    QualityFilter(lambda text: 1.0),
    WordList(frozenset({"a", "b c"}), max_share=1),
    GopherQuality(min_words=1, min_stop_words=0, min_mean_word_length=0, min_alphabetic_words=0, max_symbol_ratio=9),
    GopherRepetition(max_lines=1, max_paragraphs=1, max_line_characters=1, max_paragraph_characters=1),
    FineWebQuality(
        min_terminal_lines=0, max_short_lines=1, max_duplicate_line_characters=1, max_line_breaks_per_word=9
    ),
    C4(terminal=(), min_line_words=0, min_sentences=0, banned_in_page=()),
    LineDedup(min_line_words=0),
    ExactDedup(),
    NearDedup(),
    Decontaminate({"item": "one two three four five six seven eight nine"}),
)


@pytest.mark.parametrize("pick", range(len(EVERY)))
def test_every_step_takes_any_text(pick):
    """Random strings of unusual characters are kept, edited or dropped by a rule, without errors, and counts add up."""
    drawn = random.Random(pick)
    texts = ["".join(drawn.choices(drawn.choice(ALPHABETS), k=drawn.randint(1, 200))) for _ in range(150)]
    kept, report = run(Pipeline((EVERY[pick],)), ({"text": text} for text in texts))
    assert len(kept) == report.kept and report.read == 150 == report.kept + sum(report.dropped.values())
    assert all(document["text"].strip() or pick == 7 for document in kept)


def test_the_whole_pipeline_on_prose():
    documents = [document(prose(number, 20), str(number)) for number in range(40)]
    kept, report = run(Pipeline(EVERY), [*documents, *({**each, "id": "again"} for each in documents)])
    assert [document["id"] for document in kept] == [str(number) for number in range(40)]
    assert report.dropped == {"line_dedup.words_left": 40}


@pytest.mark.parametrize("unit", [".", '?"', ". ", "[1", "a.\n", "\n", "#"])
def test_no_text_makes_the_heuristics_slow(unit):
    began = time.process_time()
    for step in (C4(max_word_characters=10**7), GopherQuality(), GopherRepetition(), FineWebQuality()):
        step(document(unit * (100_000 // len(unit)) + "x."))
    assert time.process_time() - began < 2


def test_unusual_ids_are_written(tmp_path):
    same = {"text": "the same", "id": "half \ud83d"}
    _, report = run(Pipeline((ExactDedup(),)), [same, same])
    report.write(tmp_path)
    assert json.loads((tmp_path / "report.json").read_text("utf-8"))["dropped"] == {"exact_dedup.copy": 1}

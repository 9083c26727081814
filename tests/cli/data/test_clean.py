"""`t5x_like clean`: published pipelines from gin, planted items are found, and bad flags raise before anything is written."""

import dataclasses
import json
import random
import re

import pytest

from t5x_like.cleaning.classifier_filters import LanguageFilter
from t5x_like.cleaning.ngram_classifier import NgramClassifier
from t5x_like.cleaning.pipeline import Pipeline
from t5x_like.cleaning.report import Report
from t5x_like.cli import main
from t5x_like.cli.gin import runtime
from tests.cleaning.planted import WORDS, document, prose
from tests.gin_models import CONFIGS

ITEM = " ".join(WORDS[:30])
FLAGS = ["--suffix=.jsonl", "--workers=2"]


def english(text: str) -> tuple[str, float]:
    return ("de" if "ß" in text else "en", 1.0)


def with_language(pipeline: Pipeline) -> Pipeline:
    """The pipeline with a language filter that needs no package."""
    steps = (dataclasses.replace(s, identify=english) if isinstance(s, LanguageFilter) else s for s in pipeline.steps)
    return Pipeline(tuple(steps))


@pytest.fixture
def folder(tmp_path):
    """Two files with copies, personal data and a test item planted."""
    texts = [prose(n, 20) for n in range(6)]
    first = [*texts, texts[0].upper(), f"{texts[1]}\nOne more.", "short"]
    second = [
        texts[2],
        f"{prose(10, 20)}\nWrite to jane@example.org.",
        f"{prose(11, 20)}\n{ITEM[5:]}.",
        f"{prose(12, 20)}\nSo they badly behaved.",
    ]
    for name, found in (("a.jsonl", first), ("b.jsonl", second)):
        lines = (json.dumps({"body": text, "n": n}) + "\n" for n, text in enumerate(found))
        (tmp_path / name).write_text("".join(lines))
    (tmp_path / "test.jsonl").write_text(json.dumps({"question": ITEM, "answer": "yes"}) + "\n")
    (tmp_path / "words.txt").write_text("badly behaved\n")
    (tmp_path / "c.txt").write_text("")
    return tmp_path


def test_planted_items_are_found(folder, capsys):
    out = folder / "out"
    flags = [
        "--gin_file=cleaning/gopher.gin",
        "--input",
        f"{folder}/?.jsonl",
        f"{folder}/c.txt",
        "--field=body",
        *FLAGS,
    ]
    flags += [f"--against={folder}/test.jsonl", f"--word_list={folder}/words.txt", f"--out={out}"]
    assert main.main(["clean", *flags]) == 0
    said = capsys.readouterr().out
    found = json.loads((out / "report.json").read_text())
    assert found["dropped"] == {
        "gopher_quality.word_count": 1,
        "exact_dedup.copy": 2,
        "near_dedup.copy": 1,
        "contamination.ngram": 1,
        "word_list.bad_words": 1,
    }
    assert found["read"] == 13 and found["kept"] == 7 and found["empty_files"] == [f"{folder}/c.txt"]
    for rule, count in found["dropped"].items():
        assert re.search(rf"dropped +{count}  {re.escape(rule)}\n", said)
    assert "1 test items" not in said and "2 test items: 1 share 13 words with the inputs, 1 70%" in said
    shares = json.loads((out / "contamination.json").read_text())["test.jsonl test.jsonl:1 question"]
    assert 0.8 < shares["8"] <= 1 and 0.8 < shares["13"] <= 1
    lines = [json.loads(line) for name in ("a", "b") for line in (out / f"{name}.jsonl").read_text().splitlines()]
    assert [line["text"] for line in lines[:6]] == [prose(n, 20) for n in range(6)] and lines[0]["n"] == 0
    assert (out / "c.jsonl").read_text() == "" and "contamination.ngram" in (out / "report.html").read_text()
    assert main.main(["clean", *flags]) == 0
    assert said == capsys.readouterr().out


@pytest.mark.parametrize(
    "name", sorted(path.stem for path in (CONFIGS / "cleaning").glob("*.gin") if path.stem != "gpt3")
)
def test_published_pipelines(name):
    """Each keeps its kind of text: prose without its copy, or code."""
    pipeline = with_language(runtime.parse([f"cleaning/{name}.gin"]).evaluate("%PIPELINE"))
    source = "\n".join(f"def function_{n}(x):\n    return {{x: {n}}}\n" for n in range(40))
    documents = [document(text, str(n)) for n, text in enumerate([*map(prose, range(30, 40)), prose(30), source])]
    kept = [each["id"] for each in pipeline(documents, Report())]
    assert kept == (["11"] if name == "code" else [str(n) for n in range(10)])


def test_fineweb_from_end_to_end():
    pipeline = with_language(runtime.parse(["cleaning/fineweb.gin"]).evaluate("%PIPELINE"))
    first, mail = prose(1, 20), prose(2, 20) + "\nWrite to jane@example.org for more of that."
    copied = f"{first}\nOne more sentence here."
    texts = [first, mail, copied, prose(3, 20) + " ß", prose(4, 2), (prose(5, 4) + "\n") * 3]
    report = Report()
    kept = list(pipeline([document(text, str(number)) for number, text in enumerate(texts)], report))
    assert [each["text"] for each in kept] == [first, mail.replace("jane@example.org", "<MAIL>")]
    assert report.edits == {"pii.mail": 1}
    assert report.dropped == {
        "near_dedup.copy": 1,
        "language.other": 1,
        "gopher_quality.word_count": 1,
        "gopher_repetition.lines": 1,
    }


def test_a_flag_sets_a_threshold():
    flags = ["--gin.gopher.GopherQuality.min_words=7"]
    assert runtime.parse(["cleaning/gopher.gin"], flags).evaluate("%PIPELINE").steps[0].min_words == 7


def test_a_classifier_is_trained_and_used(tmp_path, capsys):
    drawn = random.Random(0)
    halves = {"good": WORDS[:300], "poor": WORDS[300:600]}
    for label, words in halves.items():
        lines = (" ".join(drawn.choices(words, k=40)) for _ in range(120))
        (tmp_path / f"{label}.txt").write_text("".join(f"{line}\n" for line in lines))
    pairs = [f"{label}={tmp_path}/{label}.txt" for label in halves]
    model = tmp_path / "model.npz"
    assert main.main(["clean", "--train_classifier", *pairs, f"--out={model}"]) == 0
    assert "good, poor; 24 of 24 held-out documents are correct" in capsys.readouterr().out
    assert NgramClassifier.load(model).labels == ("good", "poor")
    flags = ["--gin_file=cleaning/gpt3.gin", f"--gin.CLASSIFIER={model}", f"--out={tmp_path / 'out'}", *FLAGS]
    assert main.main(["clean", *flags, f"--input={tmp_path}/*.txt"]) == 0
    found = json.loads((tmp_path / "out" / "report.json").read_text())
    good, poor = ((tmp_path / "out" / f"{label}.jsonl").read_text().count("\n") for label in halves)
    assert good > 80 and poor < 10 and found["dropped"]["quality.score"] == 240 - good - poor


def test_one_file_one_document(tmp_path, capsys):
    (tmp_path / "a.py").write_text("x = 1\n" * 20 + "# by jane@example.org")
    (tmp_path / "b.py").write_text("# do not edit\nx = 1\n")
    flags = ["--gin_file=cleaning/code.gin", "--whole_files", f"--input={tmp_path}/*.py", f"--out={tmp_path / 'out'}"]
    assert main.main(["clean", *flags, "--suffix=.jsonl"]) == 0
    said = capsys.readouterr().out
    assert "1  code.generated" in said and "1  pii.mail" in said
    assert json.loads((tmp_path / "out" / "a.jsonl").read_text()) == {
        "id": "a.py",
        "text": "x = 1\n" * 20 + "# by <MAIL>",
    }


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--input=IN/a.jsonl"], "--gin_file and --input are needed"),
        (["--gin_file=cleaning/gopher.gin"], "--gin_file and --input are needed"),
        (["--gin_file=cleaning/gpt3.gin", "--input=IN/a.jsonl"], "CLASSIFIER"),
        (["--gin_file=cleaning/gopher.gin", "--input=IN/none*"], "none* matches no file"),
        (
            ["--gin_file=cleaning/gopher.gin", "--input=IN/x.docx"],
            "no reader for suffix '.docx'; known are .txt, .jsonl",
        ),
        (["--gin_file=cleaning/gopher.gin", "--input=IN/a.jsonl", "--suffix=.txt"], "suffix='.txt' is not known"),
        (["--gin_file=cleaning/gopher.gin", "--input=IN/a.jsonl", "--workers=0"], "--workers: 0 is not 1 or more"),
        (["--gin_file=cleaning/gopher.gin", "--input=IN/a.jsonl", "--against=IN/c.txt"], "has no text"),
        (["--gin_file=cleaning/gopher.gin", "--input=IN/a.jsonl", "--characters"], "applies to --train_classifier"),
        (["--train_classifier", "IN/a.jsonl"], "give LABEL=FILE"),
        (["--train_classifier", "good=IN/a.jsonl"], "give at least two kinds"),
        (["--train_classifier", "good=IN/a.jsonl", "--input=IN/a.jsonl"], "takes no pipeline and no input"),
    ],
)
def test_bad_flags_raise_and_nothing_is_written(flags, message, folder, capsys):
    (folder / "x.docx").write_text("x")
    flags = [flag.replace("IN/", f"{folder}/") for flag in flags]
    assert main.main(["clean", f"--out={folder / 'out'}", "--field=body", *flags]) == 2
    assert message in capsys.readouterr().err
    assert not (folder / "out").exists()

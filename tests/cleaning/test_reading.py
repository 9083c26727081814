"""Files of every format, complete and damaged: documents are read as they were written, and losses are counted."""

import csv
import gzip
import json
import tracemalloc

import pytest

from t5x_like.cleaning.c4 import C4
from t5x_like.cleaning.gopher import GopherQuality
from t5x_like.cleaning.pipeline import Pipeline
from t5x_like.cleaning.reading import (
    find_files,
    read,
    read_jsonl,
    read_parquet,
    read_text_lines,
    read_tsv,
    read_whole_file,
)
from t5x_like.cleaning.report import Report
from tests.cleaning.planted import document, prose, rule

WEB = Pipeline((C4(), GopherQuality()))
RECORDS = [{"id": f"r{n}", "text": f"naïve line {n}", "note": f"n{n}"} for n in range(600)]


def zstandard():
    return pytest.importorskip("zstandard")


def compressed(content: bytes, ending: str) -> bytes:
    """As .gz or .zst, in two members or frames."""
    half = len(content) // 2
    press = {"": bytes, ".gz": gzip.compress, ".zst": lambda part: zstandard().compress(part)}[ending]
    return press(content[:half]) + press(content[half:])


def written(suffix: str) -> bytes:
    """RECORDS in a format."""
    names = list(RECORDS[0])
    if suffix == ".txt":
        lines = [record["text"] for record in RECORDS]
    elif suffix == ".jsonl":
        lines = [json.dumps(record) for record in RECORDS]
    else:
        mark = "\t" if suffix == ".tsv" else ","
        lines = [mark.join(names), *(mark.join(record.values()) for record in RECORDS)]
    return "\n".join(lines).encode()


def run(pipeline: Pipeline, documents) -> tuple[list, Report]:
    report = Report()
    return list(pipeline(documents, report)), report


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".tsv", ".csv"])
def test_documents_are_read_as_written(suffix, ending, tmp_path):
    path = tmp_path / f"a{suffix}{ending}"
    path.write_bytes(compressed(written(suffix), ending))
    found = list(read(path))
    if suffix == ".txt":
        assert [each["text"] for each in found] == [record["text"] for record in RECORDS]
        assert len({each["id"] for each in found}) == len(RECORDS)
    else:
        assert found == RECORDS


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".tsv", ".csv"])
def test_only_line_feeds_end_lines_and_a_mark_is_no_text(suffix, end, ending, tmp_path):
    texts = ["first", "by\u2028the author", "page\x0cpage", "next\x85line", "\ufefflast"]
    lines = {
        ".txt": texts,
        ".jsonl": [json.dumps({"text": text}, ensure_ascii=False) for text in texts],
        ".tsv": ["text\tn", *(f"{text}\t1" for text in texts)],
        ".csv": ["text,n", *(f"{text},1" for text in texts)],
    }[suffix]
    path = tmp_path / f"a{suffix}{ending}"
    path.write_bytes(compressed(("\ufeff" + end.join(lines)).encode(), ending))
    assert [each["text"] for each in read(path)] == texts


def test_a_mark_is_no_text_of_a_whole_file(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffone\n\ufefftwo".encode())
    assert list(read(tmp_path / "a.txt", reader=read_whole_file)) == [{"id": "a.txt", "text": "one\n\ufefftwo"}]
    for encoding in ("utf-8-sig", "utf-16"):  # the mark prevails over what the page says
        (tmp_path / "a.html").write_bytes('<meta charset="latin1"><p>naïve'.encode(encoding))
        assert [each["text"] for each in read(tmp_path / "a.html")] == ["naïve"]


def test_parquet_is_read_in_batches(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(RECORDS), path, row_group_size=100)
    assert list(read(path)) == RECORDS
    assert [rule(each) for each in read(path, max_bytes=10)] == ["reading.long_row"] * 600
    path.write_bytes(path.read_bytes()[:-100])
    assert [rule(each) for each in read(path)] == ["reading.damaged_file"]


def test_values_of_parquet_that_python_cannot_hold_lose_at_most_their_row(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    nanoseconds = pyarrow.array([1, 1000, None, 2**62], pyarrow.timestamp("ns"))
    columns = {
        "text": ["a", "b", "c", "d"],
        "nanoseconds": nanoseconds,
        "late": pyarrow.array([0, 2**31 - 1, None, 1], pyarrow.date32()),
        "microseconds": pyarrow.array([0, 2**60, None, 1], pyarrow.timestamp("us")),
        "zoned": pyarrow.array([0, 1, None, 2], pyarrow.timestamp("us", tz="Mars/Base")),
    }
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table(columns), path)
    found = list(read(path))
    assert [each["text"] for each in found] == ["a", "b", "c", "d"]
    assert found[0]["nanoseconds"] == "1970-01-01 00:00:00.000000001" and found[2]["late"] is None
    assert found[1]["zoned"] == "1970-01-01 00:00:00.000001Z"
    assert found[1]["nanoseconds"] == "1970-01-01 00:00:00.000001000"
    listed = pyarrow.array([[1], [1000], None, []], pyarrow.list_(pyarrow.timestamp("ns")))
    parquet.write_table(pyarrow.table(columns | {"listed": listed}), path)
    assert [each["listed"] for each in read(path)][1:] == [["1970-01-01 00:00:00.000001000"], None, []]
    nested = pyarrow.array([[1], [1000], None, [2**62]], pyarrow.list_(pyarrow.timestamp("us")))
    parquet.write_table(pyarrow.table(columns | {"nested": nested}), path)
    found = list(read(path))
    lost = [n for n, each in enumerate(found) if rule(each) == "reading.invalid_value"]
    assert len(found) == 4 and lost and "a.parquet:4: column 'nested'" in found[3].detail
    wanted = list(read_parquet(path, fields=["text", "other"]))
    assert [set(each) for each in wanted] == [{"id", "text"}] * 4


def test_json_is_nested_at_most_100_deep(tmp_path):
    lines = ['{"text": "x", "a": ' + "[" * depth + "]" * depth + "}" for depth in (99, 600)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    found = list(read(tmp_path / "a.jsonl"))
    assert rule(found[0]) == "kept" and json.dumps(found[0])
    assert rule(found[1]) == "reading.invalid_json" and "a.jsonl:2: nested more than 100 deep" in found[1].detail


def test_an_extraction_that_fails_loses_its_page(tmp_path):
    (tmp_path / "a.html").write_text("<p>text")
    (lost,) = read(tmp_path / "a.html", extract=lambda page: page.index("none"))
    assert rule(lost) == "reading.invalid_html" and "a.html: ValueError" in lost.detail


@pytest.mark.parametrize("ending", [".gz", ".zst"])
@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".tsv", ".csv"])
def test_a_truncated_file_is_one_drop_after_its_readable_part(suffix, ending, tmp_path):
    content = compressed(written(suffix), ending)
    path = tmp_path / f"a{suffix}{ending}"
    path.write_bytes(content[: -len(content) // 4])
    found = list(read(path))
    assert rule(found[-1]) == "reading.damaged_file" and "the rest is lost" in found[-1].detail
    whole = [each["text"] for each in found if rule(each) == "kept"]
    assert 200 < len(whole) < 600 and whole[:-1] == [record["text"] for record in RECORDS[: len(whole) - 1]]


@pytest.mark.parametrize("place", [0, 1, 40, -6])  # in the header, the content and the checksum
def test_a_damaged_gzip_member_is_one_drop_after_its_readable_part(place, tmp_path):
    members = [gzip.compress(f"one\n{n}\n".encode() * 2000, mtime=0) for n in range(3)]
    damaged = bytearray(members[1])
    damaged[place] ^= 0xFF
    (tmp_path / "a.txt.gz").write_bytes(members[0] + damaged + members[2])
    found = list(read(tmp_path / "a.txt.gz"))
    assert [rule(each) for each in found[3900:]].count("reading.damaged_file") == 1 and rule(found[3900]) == "kept"


@pytest.mark.parametrize("name", ["a.txt.gz", "a.jsonl.zst", "a.parquet"])
def test_a_file_of_another_format_is_a_drop(name, tmp_path):
    if ".zst" in name:
        zstandard()
    (tmp_path / name).write_bytes(b"something else entirely")
    assert [rule(each) for each in read(tmp_path / name)] == ["reading.damaged_file"]


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.tsv", "a.csv.gz", "a.parquet", "a.txt.zst"])
def test_an_empty_file_has_no_documents(name, tmp_path):
    (tmp_path / name).write_bytes(b"")
    assert list(read(tmp_path / name)) == []


def test_each_missing_field_is_counted(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"body": "one", "text": "other", "n": 1}\n{"title": "two"}\n{"text": null}\n')
    found = list(read(tmp_path / "a.jsonl", field="body"))
    assert found[0] == {"id": "a.jsonl:1", "text": "one", "n": 1}
    assert [rule(each) for each in found[1:]] == ["reading.missing_field"] * 2
    assert "a.jsonl:2: no field 'body' (found: title)" in found[1].detail
    assert [rule(each) for each in read(tmp_path / "a.jsonl")] == ["kept", "reading.missing_field", "kept"]
    assert list(read(tmp_path / "a.jsonl", field=None))[1] == {"id": "a.jsonl:2", "title": "two"}


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".tsv", ".csv"])
def test_invalid_utf8_loses_only_its_record(suffix, tmp_path):
    content = written(suffix).replace("naïve line 5\n".encode(), b"na\xefve line 5\n")
    content = content.replace("naïve line 5".encode() + b'"', b'na\xefve line 5"')
    content = content.replace("naïve line 5\t".encode(), b"na\xefve line 5\t").replace(
        "naïve line 5,".encode(), b"\xef,"
    )
    if suffix == ".jsonl":
        content = content.replace(b'na\\u00efve line 5"', b'na\xefve line 5"')
    (tmp_path / f"a{suffix}").write_bytes(content)
    rules = [rule(each) for each in read(tmp_path / f"a{suffix}")]
    assert [n for n, each in enumerate(rules) if each == "reading.invalid_utf8"] == [5] and len(rules) == 600


def test_csv_fields_may_have_quotes_and_line_ends_tsv_fields_not(tmp_path):
    rows = [("text", "note"), ('two\nlines, "quoted"', "a"), ("plain", "b"), ("too", "many", "fields")]
    with open(tmp_path / "a.csv", "w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows(rows)
    found = list(read(tmp_path / "a.csv"))
    assert [each["text"] for each in found[:2]] == [rows[1][0], "plain"] and rule(found[2]) == "reading.columns"
    (tmp_path / "a.tsv").write_text('"open\tb\n\nc"\td\n')
    headless = read_tsv(tmp_path / "a.tsv", columns=("text", "note"))
    assert [each["text"] for each in headless] == ['"open', 'c"']


def test_an_open_quote_loses_bounded_memory_and_is_counted(tmp_path):
    with open(tmp_path / "a.csv", "w") as file:
        file.write('text\n"never closed')
        for _ in range(300):
            file.write("some words\n" * 1000)
    rules = {rule(each) for each in read(tmp_path / "a.csv", max_bytes=1 << 20)}
    assert "reading.invalid_csv" in rules


def test_one_document_per_file(tmp_path):
    (tmp_path / "a.py.gz").write_bytes(gzip.compress(b"x = 1\n\ny = 2\n"))
    assert list(read(tmp_path / "a.py.gz", reader=read_whole_file)) == [{"id": "a.py.gz", "text": "x = 1\n\ny = 2\n"}]
    assert [rule(each) for each in read(tmp_path / "a.py.gz", reader=read_whole_file, max_bytes=5)] == [
        "reading.long_file"
    ]


def test_unknown_suffixes_are_refused(tmp_path):
    for name in ("a.docx", "a", "a.parquet.gz"):
        (tmp_path / name).write_bytes(b"x")
    for name in ("a.docx", "a"):
        with pytest.raises(ValueError, match=r"known are \.txt, \.jsonl, \.tsv"):
            read(tmp_path / name)
    with pytest.raises(ValueError, match="decompress the outer file"):
        read(tmp_path / "a.parquet.gz")
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none.txt")


def test_missing_package_errors_name_the_package(tmp_path, monkeypatch):
    for name, package in (("a.txt.zst", "zstandard"), ("a.parquet", "pyarrow")):
        monkeypatch.setitem(__import__("sys").modules, package, None)
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(ImportError, match=f"pip install {package}"):
            list(read(tmp_path / name))


def test_globs(tmp_path):
    for name in ("b.txt", "a.txt", "in/c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert [path.name for path in find_files([f"{tmp_path}/*.txt", tmp_path / "a.txt"])] == ["a.txt", "b.txt"]
    assert len(find_files([f"{tmp_path}/**/*.txt"])) == 3
    with pytest.raises(ValueError, match="none.txt matches no file"):
        find_files([f"{tmp_path}/none.txt"])


def test_jsonl_with_every_kind_of_line(tmp_path):
    lines = [
        json.dumps(document(prose(0), "good")).encode(),
        b"",
        b'{"text": "caf\xe9"}',
        b"{not json",
        b"[1, 2]",
        b"[" * 200_000,
        b'{"text": "' + b"x" * 2_000_000 + b'"}',
        json.dumps({"text": prose(1), "url": "u"}).encode(),
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    kept, report = run(WEB, read_jsonl(tmp_path / "a.jsonl", max_bytes=1_000_000))
    assert [document["id"] for document in kept] == ["good", "a.jsonl:8"]
    assert kept[1]["url"] == "u"
    assert report.dropped == {"reading.invalid_utf8": 1, "reading.invalid_json": 3, "reading.long_line": 1}


def test_a_line_of_100_megabytes_is_one_drop(tmp_path):
    with open(tmp_path / "a.txt", "wb") as file:
        file.truncate(100_000_000)
        file.seek(0, 2)
        file.write(b"\nshort\r\n")
    found = list(read_text_lines(tmp_path / "a.txt"))
    assert rule(found[0]) == "reading.long_line" and "100000001 bytes" in found[0].detail
    assert found[1] == {"text": "short", "id": "a.txt:2"}


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
def test_a_line_of_100_megabytes_takes_bounded_memory(ending, tmp_path):
    with open(tmp_path / "whole.txt", "wb") as file:
        file.truncate(100_000_000)
        file.seek(0, 2)
        file.write(b"\nshort\n")
    path = tmp_path / f"a.txt{ending}"
    path.write_bytes(compressed((tmp_path / "whole.txt").read_bytes(), ending))
    tracemalloc.start()
    found = list(read(path, max_bytes=1_000_000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rule(found[0]) == "reading.long_line" and found[1]["text"] == "short"
    assert peak < 30_000_000

"""Documents from files, whatever is in them: what cannot be read comes as a Dropped, to be counted.

A reader is a function (path, max_bytes) -> documents; FORMATS has one by suffix. `read` makes the wanted field the text.
"""

import csv
import glob
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from t5x_like.cleaning import web
from t5x_like.cleaning.html_text import html_text
from t5x_like.cleaning.opening import COMPRESSED, damaged, opened_lines, whole_content
from t5x_like.cleaning.steps import Document, Dropped

MAX_BYTES = 20_000_000
Reader = Callable[[Path | str, int], Iterator[Document | Dropped]]


def text_lines(path: Path | str, max_bytes: int = MAX_BYTES) -> Iterator[Document | Dropped]:
    """A document per line of a text file; empty lines are skipped."""
    for number, line in enumerate(opened_lines(path, max_bytes), 1):
        if isinstance(line, Dropped):
            yield line
        elif line.strip():
            yield text_document(line.rstrip(b"\r\n"), f"{Path(path).name}:{number}")


def whole_file(path: Path | str, max_bytes: int = MAX_BYTES) -> Iterator[Document | Dropped]:
    """One document: all of the file's text; none of an empty file."""
    content = whole_content(path, max_bytes)
    if isinstance(content, Dropped):
        yield content
    elif content:
        yield text_document(content, Path(path).name)


def text_document(content: bytes, name: str) -> Document | Dropped:
    """A document of UTF-8 bytes."""
    try:
        return {"id": name, "text": content.decode("utf-8")}
    except UnicodeDecodeError as error:
        return Dropped("reading.invalid_utf8", f"{name}: {error.reason} at byte {error.start}")


def jsonl(path: Path | str, max_bytes: int = MAX_BYTES) -> Iterator[Document | Dropped]:
    """A document per line of a JSON-lines file, with its fields; `id` is file and line where it has none."""
    for number, line in enumerate(opened_lines(path, max_bytes), 1):
        if isinstance(line, Dropped):
            yield line
        elif line.strip():
            yield json_document(line, f"{Path(path).name}:{number}")


def json_document(line: bytes, name: str) -> Document | Dropped:
    """The object of one line."""
    try:
        document = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return Dropped("reading.invalid_utf8", f"{name}: {error.reason} at byte {error.start}")
    except (ValueError, RecursionError) as error:
        return Dropped("reading.invalid_json", f"{name}: {str(error)[:80]}")
    if not isinstance(document, dict):
        return Dropped("reading.invalid_json", f"{name}: a {type(document).__name__} in place of an object")
    return named(document, name)


def named(document: Document, name: str) -> Document:
    """The document with an id."""
    return document if document.get("id") is not None else document | {"id": name}


def tsv(path: Path | str, max_bytes: int = MAX_BYTES, columns: Sequence[str] = ()) -> Iterator[Document | Dropped]:
    """A document per line, fields between tabs as they stand; names in `columns`, or else in the first line."""
    rows = ((number, text_fields(line)) for number, line in enumerate(opened_lines(path, max_bytes), 1))
    yield from table(rows, Path(path).name, columns)


def text_fields(line: bytes | Dropped) -> list[str] | Dropped:
    """The fields of one line, undecodable bytes as surrogates."""
    return line if isinstance(line, Dropped) else text_of(line).rstrip("\r\n").split("\t")


def text_of(line: bytes) -> str:
    return line.decode("utf-8", "surrogateescape")


def comma_separated(
    path: Path | str, max_bytes: int = MAX_BYTES, columns: Sequence[str] = ()
) -> Iterator[Document | Dropped]:
    """A document per record of a CSV file (RFC 4180: quoted fields may hold line ends); names as in `tsv`."""
    yield from table(csv_rows(opened_lines(path, max_bytes), max_bytes), Path(path).name, columns)


def csv_rows(found: Iterable[bytes | Dropped], max_bytes: int) -> Iterator[tuple[int, list[str] | Dropped]]:
    """(line it ends in, fields) of each record; what is lost on the way comes before the next one."""
    lost: list[Dropped] = []

    def texts() -> Iterator[str]:
        for line in found:
            if isinstance(line, Dropped):
                lost.append(line)
            else:
                yield text_of(line)

    reader = csv.reader(texts())
    while True:
        before = csv.field_size_limit(max_bytes)  # of the whole process
        try:
            row = next(reader, None)
        except csv.Error as error:
            row = Dropped("reading.invalid_csv", f"record that ends in line {reader.line_num}: {error}")
        finally:
            csv.field_size_limit(before)
        yield from ((reader.line_num, each) for each in lost)
        lost.clear()
        if row is None:
            return
        yield reader.line_num, row


def table(
    rows: Iterable[tuple[int, list[str] | Dropped]], name: str, columns: Sequence[str]
) -> Iterator[Document | Dropped]:
    """The rows as documents."""
    for number, row in rows:
        if isinstance(row, Dropped):
            yield row
        elif not columns:
            columns = [column.removeprefix("\ufeff") for column in row]
        elif any(row):
            yield row_document(row, columns, f"{name}:{number}")


def row_document(row: list[str], columns: Sequence[str], name: str) -> Document | Dropped:
    """One row with its names."""
    if len(row) != len(columns):
        return Dropped("reading.columns", f"{name}: {len(row)} fields for {len(columns)} columns")
    try:
        "".join(row).encode("utf-8")
    except UnicodeEncodeError as error:
        return Dropped("reading.invalid_utf8", f"{name}: at character {error.start}")
    return named(dict(zip(columns, row, strict=True)), name)


def parquet(path: Path | str, max_bytes: int = MAX_BYTES, rows: int = 256) -> Iterator[Document | Dropped]:
    """A document per row of a Parquet file, `rows` read at a time. A damaged file is one Dropped."""
    try:
        import pyarrow
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise ImportError(".parquet files need pyarrow: pip install pyarrow") from error
    number = 0
    try:
        with ParquetFile(path) as file:
            for batch in file.iter_batches(rows, use_threads=False):
                for row in batch.to_pylist():
                    number += 1
                    yield within(named(row, f"{Path(path).name}:{number}"), max_bytes)
    except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:
        if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
            raise
        yield damaged(path, error)


def within(document: Document, max_bytes: int) -> Document | Dropped:
    """A row whose texts are not too long."""
    size = sum(len(value) for value in document.values() if isinstance(value, str | bytes))
    if size > max_bytes:
        return Dropped("reading.long_row", f"{document['id']}: {size} characters, allowed at most {max_bytes}")
    return document


FORMATS: dict[str, Reader] = {
    ".txt": text_lines,
    ".jsonl": jsonl,
    ".tsv": tsv,
    ".csv": comma_separated,
    ".parquet": parquet,
    ".html": web.html,
    ".htm": web.html,
    ".warc": web.warc,
    ".wet": web.warc,
}


def suffix_of(path: Path | str) -> str:
    """The suffix that tells the format: that before .gz or .zst."""
    name = Path(path).name.lower()
    for ending in COMPRESSED:
        name = name.removesuffix(ending)
    return Path(name).suffix


def reader_of(path: Path | str) -> Reader:
    """The reader of a file's suffix.

    Raises:
      ValueError: a suffix that is not in FORMATS, or Parquet in a compressed file.
    """
    suffix = suffix_of(path)
    if suffix not in FORMATS:
        known = ", ".join(FORMATS)
        raise ValueError(
            f"{path}: no reader for suffix {suffix!r}; known are {known}, all but .parquet also as .gz or .zst; rename "
            "the file, or name a reader (reading.whole_file takes any text)"
        )
    if suffix == ".parquet" and Path(path).suffix.lower() in COMPRESSED:
        raise ValueError(f"{path}: Parquet is compressed inside; unpack the file around it")
    return FORMATS[suffix]


def read(
    path: Path | str,
    field: str | None = "text",
    reader: Reader | None = None,
    max_bytes: int = MAX_BYTES,
    extract: Callable[[str], str] = html_text,
) -> Iterator[Document | Dropped]:
    """The documents of a file, with a Dropped for each that is lost; an empty file has none.

    `field` becomes `text`, and a document without it is a Dropped; None leaves documents as they are. A page of HTML (field
    `html` of a document without text) becomes what `extract` gives. `max_bytes` bounds a line, a row or a whole file. `reader`
    is by suffix if none is given.

    Raises:
      ValueError: no reader for this suffix.
      ImportError: a package for this suffix is missing.
      OSError: the file cannot be opened.
    """
    reader = reader or reader_of(path)
    if not Path(path).stat().st_size:
        return iter(())
    found = reader(path, max_bytes)
    return found if field is None else (with_text(document, field, extract) for document in found)


def with_text(document: Document | Dropped, field: str, extract: Callable[[str], str]) -> Document | Dropped:
    """The document with `field` as its text, or the text of its page."""
    if isinstance(document, Dropped) or (field == "text" and field in document):
        return document
    if field == "text" and isinstance(document.get("html"), str):
        others = {name: value for name, value in document.items() if name != "html"}
        return others | {"text": extract(document["html"])}
    if field not in document:
        there = ", ".join(name for name in document if name != "id")[:200]
        return Dropped("reading.missing_field", f"{document['id']}: no field {field!r} (found: {there or 'none'})")
    return {"text" if name == field else name: value for name, value in document.items() if name != "text"}


def matching(patterns: Sequence[str | Path]) -> list[Path]:
    """The files of paths and globs (** too), sorted, each once.

    Raises:
      ValueError: a pattern without a file.
    """
    found: set[str] = set()
    for pattern in patterns:
        files = [name for name in glob.glob(str(pattern), recursive=True) if Path(name).is_file()]
        if not files:
            raise ValueError(f"input={pattern} matches no file; give files, or globs in quotes")
        found.update(files)
    return [Path(name) for name in sorted(found)]

"""Reads documents from files; what cannot be read becomes a Dropped, which is counted.

A reader is a function (path, max_bytes) -> documents; FORMATS has one per suffix. `read` also selects the field of the text.
"""

import csv
import glob
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from t5x_like.cleaning import web
from t5x_like.cleaning.arrow_rows import batch_to_documents, select_columns
from t5x_like.cleaning.compression import COMPRESSED, read_content, read_lines, report_damage
from t5x_like.cleaning.html_text import extract_text
from t5x_like.cleaning.steps import Document, Dropped, attempt
from t5x_like.files.lines import MARK, strip_end

MAX_BYTES = 20_000_000
MAX_DEPTH = 100  # of nested JSON; what writes documents again recurses
Reader = Callable[[Path | str, int], Iterator[Document | Dropped]]


def read_text_lines(path: Path | str, max_bytes: int = MAX_BYTES) -> Iterator[Document | Dropped]:
    """Yields a document per line of a text file; skips empty lines."""
    for number, line in enumerate(read_lines(path, max_bytes), 1):
        if isinstance(line, Dropped):
            yield line
        elif line.strip():
            yield decode_document(strip_end(line), f"{Path(path).name}:{number}")


def read_whole_file(path: Path | str, max_bytes: int = MAX_BYTES) -> Iterator[Document | Dropped]:
    """Yields one document with all text of the file, none for an empty file."""
    content = read_content(path, max_bytes)
    if isinstance(content, Dropped):
        yield content
    elif content:
        yield decode_document(content.removeprefix(MARK), Path(path).name)


def decode_document(content: bytes, name: str) -> Document | Dropped:
    """A document of UTF-8 bytes, or a Dropped."""
    try:
        return {"id": name, "text": content.decode("utf-8")}
    except UnicodeDecodeError as error:
        return Dropped("reading.invalid_utf8", f"{name}: {error.reason} at byte {error.start}")


def read_jsonl(path: Path | str, max_bytes: int = MAX_BYTES) -> Iterator[Document | Dropped]:
    """Yields a document per line of a JSON Lines file, with its fields; an absent `id` becomes file and line."""
    for number, line in enumerate(read_lines(path, max_bytes), 1):
        if isinstance(line, Dropped):
            yield line
        elif line.strip():
            yield parse_json(line, f"{Path(path).name}:{number}")


def parse_json(line: bytes, name: str) -> Document | Dropped:
    """The document of one line, or a Dropped."""
    try:
        document = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return Dropped("reading.invalid_utf8", f"{name}: {error.reason} at byte {error.start}")
    except (ValueError, RecursionError) as error:
        return Dropped("reading.invalid_json", f"{name}: {str(error)[:80]}")
    if not isinstance(document, dict):
        return Dropped("reading.invalid_json", f"{name}: a {type(document).__name__} instead of an object")
    if line.count(b"[") + line.count(b"{") > MAX_DEPTH and is_deeper(document, MAX_DEPTH):
        return Dropped("reading.invalid_json", f"{name}: nested more than {MAX_DEPTH} deep")
    return with_id(document, name)


def is_deeper(value: Any, depth: int) -> bool:
    """Whether JSON lists and objects are nested more than `depth` deep."""
    level = [value]
    for _ in range(depth):
        children = (each.values() if isinstance(each, dict) else each for each in level)
        level = [child for each in children for child in each if isinstance(child, dict | list)]
        if not level:
            return False
    return True


def with_id(document: Document, name: str) -> Document:
    """The document; `name` is its id if it has none."""
    return document if document.get("id") is not None else document | {"id": name}


def read_tsv(path: Path | str, max_bytes: int = MAX_BYTES, columns: Sequence[str] = ()) -> Iterator[Document | Dropped]:
    """Yields a document per line of tab-separated fields, without quoting; `columns` or else the first line name the fields."""
    rows = ((number, split_fields(line)) for number, line in enumerate(read_lines(path, max_bytes), 1))
    yield from table_to_documents(rows, Path(path).name, columns)


def split_fields(line: bytes | Dropped) -> list[str] | Dropped:
    """The fields of one line; undecodable bytes become surrogates."""
    return line if isinstance(line, Dropped) else decode_line(strip_end(line)).split("\t")


def decode_line(line: bytes) -> str:
    """Decodes UTF-8; undecodable bytes become surrogates."""
    return line.decode("utf-8", "surrogateescape")


def read_csv(path: Path | str, max_bytes: int = MAX_BYTES, columns: Sequence[str] = ()) -> Iterator[Document | Dropped]:
    """Yields a document per record of a CSV file (RFC 4180: quoted fields may contain line ends); columns as in `read_tsv`."""
    yield from table_to_documents(parse_csv(read_lines(path, max_bytes), max_bytes), Path(path).name, columns)


def parse_csv(lines: Iterable[bytes | Dropped], max_bytes: int) -> Iterator[tuple[int, list[str] | Dropped]]:
    """Yields (last line, fields) of each record; a lost line comes before the next record."""
    lost: list[Dropped] = []

    def texts() -> Iterator[str]:
        for line in lines:
            if isinstance(line, Dropped):
                lost.append(line)
            else:
                yield decode_line(line)

    reader = csv.reader(texts())
    while True:
        limit = csv.field_size_limit(max_bytes)  # of the whole process
        try:
            row: list[str] | Dropped | None = next(reader, None)
        except csv.Error as error:
            row = Dropped("reading.invalid_csv", f"record that ends in line {reader.line_num}: {error}")
        finally:
            csv.field_size_limit(limit)
        yield from ((reader.line_num, each) for each in lost)
        lost.clear()
        if row is None:
            return
        yield reader.line_num, row


def table_to_documents(
    rows: Iterable[tuple[int, list[str] | Dropped]], name: str, columns: Sequence[str]
) -> Iterator[Document | Dropped]:
    """Yields the rows as documents; the first row names the columns if none are given."""
    for number, row in rows:
        if isinstance(row, Dropped):
            yield row
        elif not columns:
            columns = row
        elif any(row):
            yield row_to_document(row, columns, f"{name}:{number}")


def row_to_document(row: list[str], columns: Sequence[str], name: str) -> Document | Dropped:
    """The document of one row, or a Dropped."""
    if len(row) != len(columns):
        return Dropped("reading.columns", f"{name}: {len(row)} fields for {len(columns)} columns")
    try:
        "".join(row).encode("utf-8")
    except UnicodeEncodeError as error:
        return Dropped("reading.invalid_utf8", f"{name}: at character {error.start}")
    return with_id(dict(zip(columns, row, strict=True)), name)


def read_parquet(
    path: Path | str, max_bytes: int = MAX_BYTES, fields: Sequence[str] = (), rows: int = 256
) -> Iterator[Document | Dropped]:
    """Yields a document per row of a Parquet file, reading `rows` at a time. A damaged file is one Dropped.

    With `fields` (names or dotted paths) other columns are not read, unless the file has none of them.
    """
    try:
        import pyarrow
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise ImportError(".parquet files need pyarrow: pip install pyarrow") from error
    number = 0
    try:
        with ParquetFile(path) as file:
            columns = select_columns(file.schema_arrow.names, fields)
            for batch in file.iter_batches(rows, columns=columns, use_threads=False):
                for row in batch_to_documents(batch):
                    number += 1
                    name = f"{Path(path).name}:{number}"
                    if isinstance(row, Dropped):
                        yield Dropped(row.rule, f"{name}: {row.detail}")
                    else:
                        yield check_length(with_id(row, name), max_bytes)
    except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:
        if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
            raise
        yield report_damage(path, error)


def check_length(document: Document, max_bytes: int) -> Document | Dropped:
    """The document, or a Dropped if its texts are longer than max_bytes in all."""
    size = sum(len(value) for value in document.values() if isinstance(value, str | bytes))
    if size > max_bytes:
        return Dropped("reading.long_row", f"{document['id']}: {size} characters, allowed at most {max_bytes}")
    return document


FORMATS: dict[str, Reader] = {
    ".txt": read_text_lines,
    ".jsonl": read_jsonl,
    ".tsv": read_tsv,
    ".csv": read_csv,
    ".parquet": read_parquet,
    ".html": web.read_html,
    ".htm": web.read_html,
    ".warc": web.read_warc,
    ".wet": web.read_warc,
}


def find_suffix(path: Path | str) -> str:
    """The suffix of the format, without .gz or .zst."""
    name = Path(path).name.lower()
    for ending in COMPRESSED:
        name = name.removesuffix(ending)
    return Path(name).suffix


def find_reader(path: Path | str) -> Reader:
    """The reader for a file's suffix.

    Raises:
      ValueError: a suffix that is not in FORMATS, or Parquet in a compressed file.
    """
    suffix = find_suffix(path)
    if suffix not in FORMATS:
        known = ", ".join(FORMATS)
        raise ValueError(
            f"{path}: no reader for suffix {suffix!r}; known are {known}, all but .parquet also as .gz or .zst; rename "
            "the file, or name a reader (reading.read_whole_file takes any text)"
        )
    if suffix == ".parquet" and Path(path).suffix.lower() in COMPRESSED:
        raise ValueError(f"{path}: Parquet is compressed inside; decompress the outer file")
    return FORMATS[suffix]


def read(
    path: Path | str,
    field: str | None = "text",
    reader: Reader | None = None,
    max_bytes: int = MAX_BYTES,
    extract: Callable[[str], str] = extract_text,
) -> Iterator[Document | Dropped]:
    """The documents of a file, with a Dropped for each unreadable one; an empty file has none.

    `field` becomes `text`, and a document without it a Dropped; None leaves documents as they are. For a page of HTML (a
    document with `html` and no text) the text is `extract(html)`. `max_bytes` bounds a line, a row or a whole file. `reader`
    defaults to the one for the suffix.

    Raises:
      ValueError: no reader for this suffix.
      ImportError: a package for this suffix is missing.
      OSError: the file cannot be opened.
    """
    reader = reader or find_reader(path)
    if not Path(path).stat().st_size:
        return iter(())
    documents = reader(path, max_bytes)
    return documents if field is None else (select_text(document, field, extract) for document in documents)


def select_text(document: Document | Dropped, field: str, extract: Callable[[str], str]) -> Document | Dropped:
    """The document with `field`, or the text of its page, as `text`."""
    if isinstance(document, Dropped) or (field == "text" and field in document):
        return document
    if field == "text" and isinstance(document.get("html"), str):
        text = attempt("reading.invalid_html", extract, document["html"])
        if isinstance(text, Dropped):
            return Dropped(text.rule, f"{document['id']}: {text.detail}")
        return {name: value for name, value in document.items() if name != "html"} | {"text": text}
    if field not in document:
        present = ", ".join(name for name in document if name != "id")[:200]
        return Dropped("reading.missing_field", f"{document['id']}: no field {field!r} (found: {present or 'none'})")
    return {"text" if name == field else name: value for name, value in document.items() if name != "text"}


def find_files(patterns: Sequence[str | Path]) -> list[Path]:
    """The files of paths and globs (also **), sorted, without duplicates.

    Raises:
      ValueError: a pattern matches no file.
    """
    names: set[str] = set()
    for pattern in patterns:
        files = [name for name in glob.glob(str(pattern), recursive=True) if Path(name).is_file()]
        if not files:
            raise ValueError(f"input={pattern} matches no file; give files, or globs in quotes")
        names.update(files)
    return [Path(name) for name in sorted(names)]

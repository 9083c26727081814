"""Pages from .html files and from WARC archives (ISO 28500) of crawlers; .wet archives hold extracted text."""

import codecs
import itertools
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from t5x_like.cleaning.compression import CHUNK, DAMAGE, open_file, read_content, report_damage
from t5x_like.cleaning.steps import Document, Dropped

Headers = dict[str, str]  # names in lower case
CHARSET = re.compile(rb"""charset\s*=\s*["']?\s*([A-Za-z0-9_:.-]{1,40})""", re.IGNORECASE)
MARKS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
MAX_HEADERS, MAX_DIGITS = 1000, 18  # lines of headers, and digits of a length, in a record
# The encodings of browsers (WHATWG encoding standard) by Python's names. Python has others, which raise errors or are slow: idna,
# punycode, undefined.
ENCODING_NAMES = """
utf-8 cp866 iso8859-2 iso8859-3 iso8859-4 iso8859-5 iso8859-6 iso8859-7 iso8859-8 iso8859-10 iso8859-13
iso8859-14 iso8859-15 iso8859-16 koi8-r koi8-u mac-roman cp874 cp1250 cp1251 cp1252 cp1253 cp1254 cp1255 cp1256 cp1257 cp1258
mac-cyrillic gb18030 big5hkscs euc_jp iso2022_jp cp932 cp949
"""
ENCODINGS = frozenset(ENCODING_NAMES.split())
# What browsers read as a larger set.
LARGER = {
    **{"iso8859-1": "cp1252", "ascii": "cp1252", "iso8859-9": "cp1254", "tis-620": "cp874", "iso8859-11": "cp874"},
    **{"gb2312": "gb18030", "gbk": "gb18030", "big5": "big5hkscs", "shift_jis": "cp932", "euc_kr": "cp949"},
}
PAGES = ("text/html", "application/xhtml+xml", "text/plain")


def read_html(path: Path | str, max_bytes: int) -> Iterator[Document | Dropped]:
    """One document: the page in field `html`."""
    content = read_content(path, max_bytes)
    if isinstance(content, Dropped):
        yield content
    elif content:
        yield {"id": Path(path).name, "html": decode_page(content, "")}


def decode_page(content: bytes, content_type: str) -> str:
    """Decodes a page by its byte order mark, the charset of the HTTP header, of the page's beginning, or as UTF-8.

    Invalid bytes become U+FFFD.
    """
    for mark, encoding in MARKS.items():
        if content.startswith(mark):
            return content.removeprefix(mark).decode(encoding, "replace")
    match = CHARSET.search(content_type.encode()) or CHARSET.search(content[:2048])
    return content.decode(find_encoding(match[1].decode()) if match else "utf-8", "replace")


def find_encoding(label: str) -> str:
    """The encoding that browsers use for a label, UTF-8 if they know none."""
    try:
        name = codecs.lookup(label).name
    except (LookupError, UnicodeError):
        return "utf-8"
    return LARGER.get(name, name if name in ENCODINGS else "utf-8")


def read_warc(path: Path | str, max_bytes: int) -> Iterator[Document | Dropped]:
    """A document per response (field `html`) or conversion (`text`) record, with `url` and `date`; skips other records."""
    with open_file(path) as file:
        try:
            for each in read_records(file, max_bytes):
                if isinstance(each, Dropped):
                    yield each
                elif each[0].get("warc-type") in ("response", "conversion"):
                    yield parse_record(*each, max_bytes)
        except DAMAGE as error:
            yield report_damage(path, error)


def read_records(file: BinaryIO, max_bytes: int) -> Iterator[tuple[Headers, bytes | None] | Dropped]:
    """Headers and content of every record; None for content longer than max_bytes.

    A record without a valid length is a Dropped; its content is skipped up to a line that begins a record.

    Raises:
      EOFError: the archive ends inside a record.
    """
    skipping = False
    while line := file.readline(CHUNK):
        if not line.startswith(b"WARC/"):
            if line.strip() and not skipping:
                yield Dropped("reading.damaged_record", f"expected a WARC record, found {line[:20]!r}")
                skipping = True
            continue
        headers = parse_headers(itertools.islice(iter(lambda: file.readline(CHUNK), b""), MAX_HEADERS))
        length = headers.get("content-length", "")
        skipping = not (length.isdecimal() and len(length) <= MAX_DIGITS)
        if skipping:
            yield Dropped("reading.damaged_record", f"a WARC record has Content-Length {length[:40]!r}")
        elif int(length) > max_bytes:
            skip_bytes(file, int(length))
            yield headers, None
        else:
            yield headers, read_exactly(file, int(length))


def read_exactly(file: BinaryIO, length: int) -> bytes:
    """Reads `length` bytes; raises EOFError if the file has fewer."""
    content = file.read(length)
    if len(content) < length:
        raise EOFError("the file ends inside a record")
    return content


def skip_bytes(file: BinaryIO, length: int) -> None:
    """Skips `length` bytes; raises EOFError if the file has fewer."""
    for start in range(0, length, CHUNK):
        read_exactly(file, min(CHUNK, length - start))


def parse_headers(lines: Iterator[bytes]) -> Headers:
    """Parses `Name: value` lines up to an empty one; the first of several lines with one name counts."""
    headers: Headers = {}
    for line in lines:
        if not line.strip():
            break
        name, _, value = line.decode("utf-8", "replace").partition(":")
        headers.setdefault(name.strip().lower(), value.strip())
    return headers


def parse_record(headers: Headers, content: bytes | None, max_bytes: int) -> Document | Dropped:
    """The document of a response or conversion record."""
    url = headers.get("warc-target-uri", "").strip("<>")
    if content is None:
        return Dropped("reading.long_record", f"{url}: {headers['content-length']} bytes, allowed at most {max_bytes}")
    document = {"id": headers.get("warc-record-id", url), "url": url, "date": headers.get("warc-date", "")}
    if headers["warc-type"] == "conversion":
        return document | {"text": content.decode("utf-8-sig", "replace")}
    return parse_response(document, content, max_bytes)


def parse_response(document: Document, content: bytes, max_bytes: int) -> Document | Dropped:
    """The page of an HTTP response with status 200."""
    head, _, body = content.partition(b"\r\n\r\n")
    status, *lines = head.split(b"\r\n")
    headers, url = parse_headers(iter(lines)), document["url"]
    if status.split()[1:2] != [b"200"]:
        return Dropped("reading.http_status", f"{url}: {status[:60].decode('utf-8', 'replace')}")
    kind = headers.get("content-type", "text/html")
    if not kind.lower().startswith(PAGES):
        return Dropped("reading.no_page", f"{url}: {kind[:60]}")
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = join_chunks(body)
    if body.startswith(b"\x1f\x8b"):
        decompressed = unzip(body, max_bytes)
        if decompressed is None:
            return Dropped("reading.long_record", f"{url}: more than {max_bytes} bytes unzipped, or damaged")
        body = decompressed
    return document | {"text" if kind.lower().startswith("text/plain") else "html": decode_page(body, kind)}


def join_chunks(body: bytes) -> bytes:
    """Joins the chunks of a body (RFC 9112, section 7.1); returns a body without chunk lengths, as some crawlers store it."""
    parts: list[bytes] = []
    position = 0
    while True:
        end = body.find(b"\r\n", position, position + 100)
        try:
            length = int(body[position:end].partition(b";")[0], 16) if end >= 0 else -1
        except ValueError:
            length = -1
        if length < 0:
            return b"".join(parts) or body
        if length == 0:
            return b"".join(parts)
        parts.append(body[end + 2 : end + 2 + length])
        position = end + 4 + length


def unzip(body: bytes, max_bytes: int) -> bytes | None:
    """Decompresses a gzip body; None if it is longer than max_bytes or damaged."""
    try:
        decompressor = zlib.decompressobj(31)
        content = decompressor.decompress(body, max_bytes)
    except zlib.error:
        return None
    return content if decompressor.eof else None

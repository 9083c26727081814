"""Pages from .html files and from WARC archives (ISO 28500), which the crawlers write; .wet archives hold their text."""

import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from t5x_like.cleaning.opening import CHUNK, DAMAGE, damaged, opened, whole_content
from t5x_like.cleaning.steps import Document, Dropped

Headers = dict[str, str]  # names in lower case
CHARSET = re.compile(rb"""charset\s*=\s*["']?\s*([A-Za-z0-9_:.-]{1,40})""", re.IGNORECASE)
PAGES = ("text/html", "application/xhtml+xml", "text/plain")


def html(path: Path | str, max_bytes: int) -> Iterator[Document | Dropped]:
    """One document: the page in field `html`."""
    content = whole_content(path, max_bytes)
    if isinstance(content, Dropped):
        yield content
    elif content:
        yield {"id": Path(path).name, "html": page_text(content, "")}


def page_text(content: bytes, content_type: str) -> str:
    """A page's characters: in the charset of the HTTP header, of the page's beginning, or UTF-8; wrong bytes become U+FFFD."""
    named = CHARSET.search(content_type.encode()) or CHARSET.search(content[:2048])
    charset = named[1].decode().lower() if named else "utf-8"
    # Browsers read the label as the larger set (WHATWG encoding standard).
    charset = {"iso-8859-1": "cp1252", "latin1": "cp1252", "us-ascii": "cp1252", "gb2312": "gb18030"}.get(
        charset, charset
    )
    try:
        return content.decode(charset, "replace")
    except LookupError:
        return content.decode("utf-8", "replace")


def warc(path: Path | str, max_bytes: int) -> Iterator[Document | Dropped]:
    """A document per response (field `html`) or conversion (`text`) record, with its `url` and `date`; others are passed."""
    with opened(path) as file:
        try:
            for headers, content in records(file, max_bytes):
                if headers.get("warc-type") in ("response", "conversion"):
                    yield record_document(headers, content, max_bytes)
        except DAMAGE as error:
            yield damaged(path, error)


def records(file: BinaryIO, max_bytes: int) -> Iterator[tuple[Headers, bytes | None]]:
    """Headers and content of every record, None for one that is longer than max_bytes."""
    while line := file.readline(CHUNK):
        if not line.strip():
            continue
        if not line.startswith(b"WARC/"):
            raise EOFError(f"no WARC record begins with {line[:20]!r}")
        headers = header_fields(iter(lambda: file.readline(CHUNK), b""))
        length = headers.get("content-length", "")
        if not length.isdecimal():
            raise EOFError(f"a record has Content-Length {length!r}")
        if int(length) > max_bytes:
            skip(file, int(length))
            yield headers, None
        else:
            yield headers, exactly(file, int(length))


def exactly(file: BinaryIO, length: int) -> bytes:
    """So many bytes; EOFError if the file has less."""
    content = file.read(length)
    if len(content) < length:
        raise EOFError("the file ends inside a record")
    return content


def skip(file: BinaryIO, length: int) -> None:
    for start in range(0, length, CHUNK):
        exactly(file, min(CHUNK, length - start))


def header_fields(lines: Iterator[bytes]) -> Headers:
    """`Name: value` lines up to an empty one; of several of a name the first."""
    headers: Headers = {}
    for line in lines:
        if not line.strip():
            break
        name, _, value = line.decode("utf-8", "replace").partition(":")
        headers.setdefault(name.strip().lower(), value.strip())
    return headers


def record_document(headers: Headers, content: bytes | None, max_bytes: int) -> Document | Dropped:
    """What a record holds."""
    url = headers.get("warc-target-uri", "").strip("<>")
    if content is None:
        return Dropped("reading.long_record", f"{url}: {headers['content-length']} bytes, allowed at most {max_bytes}")
    document = {"id": headers.get("warc-record-id", url), "url": url, "date": headers.get("warc-date", "")}
    if headers["warc-type"] == "conversion":
        return document | {"text": content.decode("utf-8", "replace")}
    return response(document, content, max_bytes)


def response(document: Document, content: bytes, max_bytes: int) -> Document | Dropped:
    """The page of an HTTP response."""
    head, _, body = content.partition(b"\r\n\r\n")
    status, *lines = head.split(b"\r\n")
    headers, url = header_fields(iter(lines)), document["url"]
    if status.split()[1:2] != [b"200"]:
        return Dropped("reading.http_status", f"{url}: {status[:60].decode('utf-8', 'replace')}")
    kind = headers.get("content-type", "text/html")
    if not kind.lower().startswith(PAGES):
        return Dropped("reading.no_page", f"{url}: {kind[:60]}")
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = without_chunks(body)
    if body.startswith(b"\x1f\x8b"):
        body = unzipped(body, max_bytes)
        if body is None:
            return Dropped("reading.long_record", f"{url}: more than {max_bytes} bytes unzipped, or damaged")
    return document | {"text" if kind.lower().startswith("text/plain") else "html": page_text(body, kind)}


def without_chunks(body: bytes) -> bytes:
    """The body of chunks of a given length (RFC 9112, section 7.1); as it is where it has none, as crawlers may store it."""
    parts, place = [], 0
    while True:
        end = body.find(b"\r\n", place, place + 100)
        try:
            length = int(body[place:end].partition(b";")[0], 16) if end >= 0 else -1
        except ValueError:
            length = -1
        if length < 0:
            return b"".join(parts) or body
        if length == 0:
            return b"".join(parts)
        parts.append(body[end + 2 : end + 2 + length])
        place = end + 4 + length


def unzipped(body: bytes, max_bytes: int) -> bytes | None:
    """The bytes of a gzip body, None if they are more than max_bytes or damaged."""
    try:
        found = zlib.decompressobj(31)
        content = found.decompress(body, max_bytes)
    except zlib.error:
        return None
    return content if found.eof else None

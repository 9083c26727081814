"""The text of pages, from HTML files and archives; every record of an archive is read, skipped by type, or counted."""

import gzip
import zlib

import pytest

from t5x_like.cleaning.html_text import extract_text, extract_with_trafilatura
from t5x_like.cleaning.reading import read
from tests.cleaning.growth import is_linear
from tests.cleaning.planted import rule

PAGE = """<!doctype html><html><head><title>Title</title><style>p {color: red}</style>
<script>if (a < b) document.write("<p>no</p>")</script><noscript>on please</head>
<body><h1>Head  line</h1><p>One <b>bold</b> and
one <i>slanted</i> word &amp; a sign&nbsp;&eacute;.<br>After<p>Second<ul><li>a<li>b</ul>
<table><tr><td>x</td><td>y</td></tr></table><pre>def f():
    return 1</pre><div><div>in</div></div>tail<script>x</script><!-- no --></body></html>"""
TEXT = (
    "Head line\nOne bold and one slanted word & a sign é.\nAfter\nSecond\na\nb\nx y\ndef f():\n    return 1\nin\ntail"
)


def test_the_text_of_a_page():
    assert extract_text(PAGE) == TEXT
    assert extract_text("") == "" and extract_text("plain, a < b & c") == "plain, a < b & c"
    assert extract_text('<p title="a > b" id=\'"\'>One<p>two</P><title>left</title >out') == "One\ntwo\nout"
    assert extract_text("kept<!-- open <p>comment") == "kept" == extract_text("<p>kept<script>open <p>script")


def test_trafilatura_or_its_missing_package_error():
    try:
        import trafilatura  # noqa: F401
    except ImportError:
        with pytest.raises(ImportError, match="pip install trafilatura"):
            extract_with_trafilatura(PAGE)
    else:
        assert extract_with_trafilatura("") == ""
        article = "".join(
            f"<p>This is sentence {n} of the main text of a page, long enough to be kept.</p>" for n in range(9)
        )
        assert "sentence 3" in extract_with_trafilatura(
            f"<html><body><nav>Menu</nav><article>{article}</article></body></html>"
        )


@pytest.mark.parametrize(
    "unit",
    [
        "<",
        "<p",
        "<p>",
        "<!",
        "&",
        "</",
        "<a b=",
        '<a "',
        "<a \"'",
        '<a "<a " ',
        "<!--",
        "\n",
        "<pre>\n",
        "<script>",
        "<p>a ",
    ],
)
def test_the_time_is_linear_in_any_page(unit):
    assert is_linear(extract_text, unit * (8_000 // len(unit)))


def record(kind: str, content: bytes, number: int = 0) -> bytes:
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Record-ID: <urn:{number}>\r\nWARC-Target-URI: http://a.org/{number}\r\n"
    )
    return head.encode() + f"WARC-Date: 2024\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content + b"\r\n\r\n"


def http(body: bytes, kind: str = "text/html; charset=utf-8", status: str = "200 OK", more: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n{more}\r\n".encode() + body


BODY = PAGE.encode()
CHUNKED = b"".join(
    f"{len(BODY[n : n + 100]):x}\r\n".encode() + BODY[n : n + 100] + b"\r\n" for n in range(0, len(BODY), 100)
)
RECORDS = [
    ("warcinfo", b"software: x", None),
    ("request", b"GET / HTTP/1.1\r\n\r\n", None),
    ("response", http(BODY), TEXT),
    ("response", http(PAGE.encode("cp1252"), "text/html; charset=ISO-8859-1"), TEXT),
    ("response", http(b'<meta charset="cp1252">' + PAGE.encode("cp1252"), "text/html"), TEXT),
    ("response", http(CHUNKED + b"0\r\n\r\n", more="Transfer-Encoding: chunked\r\n"), TEXT),
    ("response", http(BODY, more="Transfer-Encoding: chunked\r\n"), TEXT),
    ("response", http(gzip.compress(BODY), more="Content-Encoding: gzip\r\n"), TEXT),
    ("response", http(gzip.compress(BODY)[:-9], more="Content-Encoding: gzip\r\n"), "reading.long_record"),
    ("response", http(b"just <text>", "text/plain"), "just <text>"),
    ("response", http(b"\x89PNG", "image/png"), "reading.no_page"),
    ("response", http(BODY, status="404 Not Found"), "reading.http_status"),
    ("response", b"", "reading.http_status"),
    ("response", http(b"x" * 200_000), "reading.long_record"),
    ("conversion", "naïve text".encode(), "naïve text"),
    ("metadata", b"a: b", None),
]


def archive() -> list[bytes]:
    return [record(kind, content, number) for number, (kind, content, _) in enumerate(RECORDS)]


@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz", "a.wet.gz"])
def test_every_record_of_an_archive(name, tmp_path):
    press = gzip.compress if name.endswith(".gz") else bytes
    (tmp_path / name).write_bytes(b"".join(map(press, archive())))
    found = list(read(tmp_path / name, max_bytes=100_000))
    assert [each["text"] if rule(each) == "kept" else rule(each) for each in found] == [x for _, _, x in RECORDS if x]
    assert found[0]["url"] == "http://a.org/2" and found[0]["id"] == "<urn:2>" and found[0]["date"] == "2024"


@pytest.mark.parametrize("cut", [10, 400, 2000])
def test_a_truncated_archive_is_counted(cut, tmp_path):
    content = b"".join(archive()[:8])
    (tmp_path / "a.warc").write_bytes(content[:-cut])
    (tmp_path / "b.warc.gz").write_bytes(gzip.compress(content)[: -cut // 2])
    for name in ("a.warc", "b.warc.gz"):
        rules = [rule(each) for each in read(tmp_path / name)]
        assert rules[-1] in ("reading.damaged_file", "reading.damaged_record") and set(rules[:-1]) <= {"kept"}


@pytest.mark.parametrize("length", ["", "-1", "x", "9" * 5000])
def test_a_damaged_record_loses_only_itself(length, tmp_path):
    good, damaged = archive()[2:4], record("response", http(BODY), 9)
    damaged = damaged.replace(f"Content-Length: {len(http(BODY))}".encode(), f"Content-Length: {length}".encode())
    (tmp_path / "a.warc").write_bytes(good[0] + damaged + b"something else\r\n" + good[1] + b"something else")
    rules = [rule(each) for each in read(tmp_path / "a.warc")]
    assert rules == ["kept", "reading.damaged_record", "kept", "reading.damaged_record"]


@pytest.mark.parametrize("charset", ["idna", "punycode", "undefined", "unicode_escape", "rot13", "utf-7", "x" * 40])
def test_a_charset_that_browsers_do_not_know_is_utf8(charset, tmp_path):
    (tmp_path / "a.html").write_bytes(f'<meta charset="{charset}"><p>naïve \\x41 +AGE-'.encode())
    assert [each["text"] for each in read(tmp_path / "a.html")] == ["naïve \\x41 +AGE-"]


@pytest.mark.parametrize(
    "charset", ["Shift_JIS", "GBK", "big5", "EUC-KR", "ISO-8859-9", "windows-1251", "KOI8-R", "Latin1"]
)
def test_charsets_of_browsers(charset, tmp_path):
    page = f'<meta charset="{charset}"><p>' + ("Привет" if charset in ("windows-1251", "KOI8-R") else "Text")
    (tmp_path / "a.html").write_bytes(page.encode(charset))
    assert [each["text"] for each in read(tmp_path / "a.html")] == [page.rpartition(">")[2]]


def test_html_files_and_fields(tmp_path):
    (tmp_path / "a.html").write_text(PAGE, encoding="utf-8")
    assert list(read(tmp_path / "a.html")) == [{"id": "a.html", "text": TEXT}]
    assert next(iter(read(tmp_path / "a.html", extract=str.upper)))["text"] == PAGE.upper()
    assert next(iter(read(tmp_path / "a.html", field=None)))["html"] == PAGE
    (tmp_path / "b.htm.gz").write_bytes(gzip.compress(BODY))
    assert [rule(each) for each in read(tmp_path / "b.htm.gz", max_bytes=10)] == ["reading.long_file"]
    (tmp_path / "b.htm.gz").write_bytes(zlib.compress(BODY))
    assert [rule(each) for each in read(tmp_path / "b.htm.gz")] == ["reading.damaged_file"]

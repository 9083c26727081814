"""The text of a page of HTML: by its tags alone, or by trafilatura, which leaves menus and the like out."""

import html
import re
from collections.abc import Iterator

LINE_TAGS = """
address article aside blockquote body br caption center dd details dialog div dl dt fieldset figcaption figure footer form
h1 h2 h3 h4 h5 h6 header hr html legend li main menu nav ol option p pre section summary table tbody tfoot thead tr ul
"""
LINE = frozenset(LINE_TAGS.split())
RAW = (
    "script",
    "style",
    "title",
    "textarea",
    "iframe",
    "noembed",
    "noframes",
    "xmp",
)  # up to their end tag, no tag counts
LEFT_OUT = frozenset(("noscript", "template", "svg", "select", "object", "button"))
# No part may run on from one "<" to the next outside of quotes, or a page of open tags takes the square of its length.
TAG = re.compile(r"""<!--|<[!?][^<>]*+>|<(/?)([a-zA-Z][^\s/<>]*+)(?:[^"'<>]++|"[^"]*+"|'[^']*+')*+>""")
RAW_END = {name: re.compile(f"</{name}(?=[\\s/>])", re.IGNORECASE) for name in RAW}
SPACE = re.compile(r"\s+")


def tokens(page: str) -> Iterator[tuple[str, str]]:
    """("", text), (tag, "") and ("/tag", "") in their order; comments and raw elements are passed. Linear in the page."""
    place = 0
    while tag := TAG.search(page, place):
        yield "", page[place : tag.start()]
        place = tag.end()
        if tag[0] == "<!--":
            end = page.find("-->", place)
            place = len(page) if end < 0 else end + 3
        elif tag[2]:
            name = tag[2].lower()
            yield tag[1] + name, ""
            if name in RAW_END and not tag[1]:
                end = RAW_END[name].search(page, place)
                place = end.start() if end else len(page)
    yield "", page[place:]


class Lines:
    """Collects lines: a block begins and ends one; white space is one space but in <pre>."""

    def __init__(self):
        self.lines: list[list[str]] = [[]]
        self.left_out, self.pre = 0, 0

    def tag(self, tag: str) -> None:
        """A start tag, or an end tag with its slash."""
        name, step = tag.removeprefix("/"), -1 if tag.startswith("/") else 1
        if tag == "body":
            self.left_out = 0  # whatever was left open in the head
        self.left_out = max(self.left_out + step * (name in LEFT_OUT), 0)
        self.pre = max(self.pre + step * (name == "pre"), 0)
        if name in LINE and self.lines[-1]:
            self.lines.append([])
        elif name in ("td", "th"):
            self.text(" ")

    def text(self, text: str) -> None:
        """Text between tags."""
        if self.left_out or not text:
            return
        if self.pre:
            first, *others = html.unescape(text).split("\n")
            self.lines[-1].append(first)
            self.lines += ([other] for other in others)
            return
        text, line = SPACE.sub(" ", html.unescape(text)), self.lines[-1]
        if not line or line[-1].endswith(" "):
            text = text.lstrip()
        if text:
            line.append(text)


def html_text(page: str) -> str:
    """The lines of a page; scripts, styles, forms' choices and the title are left out, menus are not."""
    lines = Lines()
    for tag, text in tokens(page):
        if tag:
            lines.tag(tag)
        else:
            lines.text(text)
    return "\n".join(line.rstrip() for line in map("".join, lines.lines) if line.strip())


def trafilatura_text(page: str) -> str:
    """The main text of a page by trafilatura (Barbaresi 2021), favouring precision as FineWeb does; "" if it finds none."""
    try:
        import trafilatura
    except ImportError as error:
        raise ImportError("trafilatura_text needs trafilatura: pip install trafilatura") from error
    return (page and trafilatura.extract(page, favor_precision=True, include_comments=False, deduplicate=True)) or ""

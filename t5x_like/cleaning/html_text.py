"""The text of an HTML page: from its tags alone, or by trafilatura, which removes menus and other boilerplate."""

import html
import re
from collections.abc import Iterator

BLOCKS = """
address article aside blockquote body br caption center dd details dialog div dl dt fieldset figcaption figure footer form
h1 h2 h3 h4 h5 h6 header hr html legend li main menu nav ol option p pre section summary table tbody tfoot thead tr ul
"""
BLOCK_TAGS = frozenset(BLOCKS.split())
RAW = (
    "script",
    "style",
    "title",
    "textarea",
    "iframe",
    "noembed",
    "noframes",
    "xmp",
)  # up to their end tag, other tags do not count
SKIPPED_TAGS = frozenset(("noscript", "template", "svg", "select", "object", "button"))
# Outside quotes no part crosses a "<"; otherwise a page of open tags takes quadratic time.
TAG = re.compile(r"""<!--|<[!?][^<>]*+>|<(/?)([a-zA-Z][^\s/<>]*+)[^"'<>]*+(?:(?:"[^"]*+"|'[^']*+')[^"'<>]*+)*>""")
RAW_END = {name: re.compile(f"</{name}(?=[\\s/>])", re.IGNORECASE) for name in RAW}
SPACE = re.compile(r"\s+")


def split_tags(page: str) -> Iterator[tuple[str, str]]:
    """Yields ("", text), (tag, "") and ("/tag", "") in order, without comments and raw elements, in linear time."""
    position = 0
    while tag := TAG.search(page, position):
        yield "", page[position : tag.start()]
        position = tag.end()
        if tag[0] == "<!--":
            comment_end = page.find("-->", position)
            position = len(page) if comment_end < 0 else comment_end + 3
        elif tag[2]:
            name = tag[2].lower()
            yield tag[1] + name, ""
            if name in RAW_END and not tag[1]:
                end = RAW_END[name].search(page, position)
                position = end.start() if end else len(page)
    yield "", page[position:]


class Lines:
    """Collects lines. A block starts and ends a line; white space collapses to one space except in <pre>."""

    def __init__(self):
        self.lines: list[list[str]] = [[]]
        self.skipping, self.pre = 0, 0

    def add_tag(self, tag: str) -> None:
        """Handles a start tag, or an end tag (with its slash)."""
        name, step = tag.removeprefix("/"), -1 if tag.startswith("/") else 1
        if tag == "body":
            self.skipping = 0  # elements left open in the head
        self.skipping = max(self.skipping + step * (name in SKIPPED_TAGS), 0)
        self.pre = max(self.pre + step * (name == "pre"), 0)
        if name in BLOCK_TAGS and self.lines[-1]:
            self.lines.append([])
        elif name in ("td", "th"):
            self.add_text(" ")

    def add_text(self, text: str) -> None:
        """Handles text between tags."""
        if self.skipping or not text:
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


def extract_text(page: str) -> str:
    """The lines of a page without scripts, styles, form choices and the title; menus are kept."""
    lines = Lines()
    for tag, text in split_tags(page):
        if tag:
            lines.add_tag(tag)
        else:
            lines.add_text(text)
    return "\n".join(line.rstrip() for line in map("".join, lines.lines) if line.strip())


def extract_with_trafilatura(page: str) -> str:
    """The main text of a page by trafilatura (Barbaresi 2021), favouring precision as FineWeb does; "" if there is none.

    Raises:
      ImportError: trafilatura is not installed.
    """
    try:
        import trafilatura
    except ImportError as error:
        raise ImportError("extract_with_trafilatura needs trafilatura: pip install trafilatura") from error
    return (page and trafilatura.extract(page, favor_precision=True, include_comments=False, deduplicate=True)) or ""

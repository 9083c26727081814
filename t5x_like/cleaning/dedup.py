"""Exact copies: of whole documents, and of lines across documents. What was seen is held in memory, one hash each."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b

from t5x_like.cleaning.steps import Document, Dropped, Edited, Step

DIGIT = re.compile(r"\d")
NOT_WORD = re.compile(r"[^\w\s]+")


def digest(text: str, size: int) -> bytes:
    """BLAKE2b of `size` bytes."""
    return blake2b(text.encode("utf-8", "replace"), digest_size=size).digest()


def same_words(text: str) -> str:
    """Texts that differ in case and white space only are one."""
    return " ".join(text.casefold().split())


def ccnet_line(line: str) -> str:
    """Lower case, digits as 0, no punctuation (CCNet's deduplication, Wenzek et al. 2020, arXiv:1911.00359)."""
    return " ".join(NOT_WORD.sub("", DIGIT.sub("0", line.lower())).split())


@dataclass(frozen=True)
class ExactDedup:
    """Drops a document whose normal form was seen; 128-bit hashes (16 bytes and the first one's id are held each)."""

    normal: Callable[[str], str] = same_words

    def start(self) -> Step:
        """The step of one run."""
        seen: dict[bytes, object] = {}

        def step(document: Document) -> Document | Dropped:
            key, name = digest(self.normal(document["text"]), 16), document.get("id")
            if key in seen:
                return Dropped("exact_dedup.copy", f"of {seen[key]}")
            seen[key] = name
            return document

        return step


@dataclass(frozen=True)
class LineDedup:
    """Removes lines seen before, in this document or an earlier one (CCNet: boilerplate, menus, licences).

    64-bit hashes, as CCNet. Lines below min_line_words stay. A document left with fewer than min_words_left is dropped, and
    its lines do not count as seen.
    """

    normal: Callable[[str], str] = ccnet_line
    min_line_words: int = 3
    min_words_left: int = 1

    def start(self) -> Step:
        """The step of one run."""
        seen: set[bytes] = set()

        def step(document: Document) -> Document | Edited | Dropped:
            lines = document["text"].split("\n")
            kept, new = self.split(lines, seen)
            cut = len(lines) - len(kept)
            text = "\n".join(kept)
            if len(text.split()) < self.min_words_left:
                return Dropped("line_dedup.words_left", f"{cut} of {len(lines)} lines were seen before")
            seen.update(new)
            return Edited({**document, "text": text}, {"line_dedup.line": cut}) if cut else document

        return step

    def split(self, lines: list[str], seen: set[bytes]) -> tuple[list[str], set[bytes]]:
        """(the lines that stay, the hashes of those that are new)."""
        kept, new = [], set()
        for line in lines:
            normal = self.normal(line)
            if len(normal.split()) >= self.min_line_words:
                key = digest(normal, 8)
                if key in seen or key in new:
                    continue
                new.add(key)
            kept.append(line)
        return kept, new

"""Exact copies: of whole documents, and of lines across documents. What was seen is held in memory, one hash each."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b

from t5x_like.cleaning.steps import Document, Dropped, Edited, Remembering

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
class ExactDedup(Remembering):
    """Drops a document whose normal form was seen; 128-bit hashes (16 bytes and the first one's id are held each)."""

    normal: Callable[[str], str] = same_words

    def sketch(self, document: Document) -> bytes:
        return digest(self.normal(document["text"]), 16)

    def judge(self) -> Callable[[bytes, object], Dropped | None]:
        seen: dict[bytes, object] = {}

        def verdict(key: bytes, name: object) -> Dropped | None:
            if key in seen:
                return Dropped("exact_dedup.copy", f"of {seen[key]}")
            seen[key] = name
            return None

        return verdict


Parts = list[tuple[bytes | None, int]]  # hash of each part of a text (None: never a copy), and its words


@dataclass(frozen=True)
class LineDedup(Remembering):
    """Removes lines seen before, in this document or an earlier one (CCNet: boilerplate, menus, licences).

    64-bit hashes, as CCNet. Lines below min_line_words stay. A document left with fewer than min_words_left is dropped, and
    its lines do not count as seen.
    """

    normal: Callable[[str], str] = ccnet_line
    min_line_words: int = 3
    min_words_left: int = 1

    def sketch(self, document: Document) -> Parts:
        return [self.part(line) for line in document["text"].split("\n")]

    def part(self, line: str) -> tuple[bytes | None, int]:
        """(the line's hash if it is long enough, its words)."""
        normal = self.normal(line)
        return digest(normal, 8) if len(normal.split()) >= self.min_line_words else None, len(line.split())

    def judge(self) -> Callable[[Parts, object], list[int] | Dropped]:
        """The verdict is the places of the lines to remove."""
        seen: set[bytes] = set()

        def verdict(parts: Parts, name: object) -> list[int] | Dropped:
            new: set[bytes] = set()
            cut = []
            for place, (key, _) in enumerate(parts):
                if key in seen or key in new:
                    cut.append(place)
                elif key is not None:
                    new.add(key)
            left = sum(words for _, words in parts) - sum(parts[place][1] for place in cut)
            if left < self.min_words_left:
                return Dropped("line_dedup.words_left", f"{len(cut)} of {len(parts)} lines were seen before")
            seen.update(new)
            return cut

        return verdict

    def apply(self, document: Document, verdict: list[int] | Dropped) -> Document | Edited | Dropped:
        if not verdict or isinstance(verdict, Dropped):
            return verdict or document
        lines, cut = document["text"].split("\n"), set(verdict)
        text = "\n".join(line for place, line in enumerate(lines) if place not in cut)
        return Edited({**document, "text": text}, {"line_dedup.line": len(cut)})

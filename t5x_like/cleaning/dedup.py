"""Exact copies of documents, and of lines across documents. One hash of each is held in memory."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b

from t5x_like.cleaning.steps import Document, Dropped, Edited, StatefulStep

DIGIT = re.compile(r"\d")
NOT_WORD = re.compile(r"[^\w\s]+")


def digest(text: str, size: int) -> bytes:
    """The BLAKE2b hash of a text, `size` bytes."""
    return blake2b(text.encode("utf-8", "replace"), digest_size=size).digest()


def normalize_words(text: str) -> str:
    """Removes differences of case and white space."""
    return " ".join(text.casefold().split())


def normalize_ccnet(line: str) -> str:
    """Lower case, digits as 0, no punctuation (CCNet's deduplication, Wenzek et al. 2020, arXiv:1911.00359)."""
    return " ".join(NOT_WORD.sub("", DIGIT.sub("0", line.lower())).split())


@dataclass(frozen=True)
class ExactDedup(StatefulStep):
    """Drops a document whose normalized text was seen; 128-bit hashes. Memory: 16 bytes and the first id per document."""

    normalize: Callable[[str], str] = normalize_words

    def sketch(self, document: Document) -> bytes:
        return digest(self.normalize(document["text"]), 16)

    def make_decider(self) -> Callable[[bytes, object], Dropped | None]:
        seen: dict[bytes, object] = {}

        def decide(key: bytes, name: object) -> Dropped | None:
            if key in seen:
                return Dropped("exact_dedup.copy", f"of {seen[key]}")
            seen[key] = name
            return None

        return decide


Lines = list[tuple[bytes | None, int]]  # the hash of each line of a text (None: too short to be a copy) and its words


@dataclass(frozen=True)
class LineDedup(StatefulStep):
    """Removes lines seen before, in this document or an earlier one (CCNet: boilerplate, menus, licences).

    64-bit hashes, as CCNet. Lines with fewer than min_line_words are kept. A document left with fewer than min_words_left is
    dropped, and its lines do not count as seen.
    """

    normalize: Callable[[str], str] = normalize_ccnet
    min_line_words: int = 3
    min_words_left: int = 1

    def sketch(self, document: Document) -> Lines:
        return [self.hash_line(line) for line in document["text"].split("\n")]

    def hash_line(self, line: str) -> tuple[bytes | None, int]:
        """(the line's hash if it is long enough, its number of words)."""
        normal = self.normalize(line)
        return digest(normal, 8) if len(normal.split()) >= self.min_line_words else None, len(line.split())

    def make_decider(self) -> Callable[[Lines, object], list[int] | Dropped]:
        """The decision is the indices of the lines to remove."""
        seen: set[bytes] = set()

        def decide(lines: Lines, name: object) -> list[int] | Dropped:
            new: set[bytes] = set()
            repeated = []
            for index, (key, _) in enumerate(lines):
                if key in seen or key in new:
                    repeated.append(index)
                elif key is not None:
                    new.add(key)
            left = sum(words for _, words in lines) - sum(lines[index][1] for index in repeated)
            if left < self.min_words_left:
                return Dropped("line_dedup.words_left", f"{len(repeated)} of {len(lines)} lines were seen before")
            seen.update(new)
            return repeated

        return decide

    def apply(self, document: Document, decision: list[int] | Dropped) -> Document | Edited | Dropped:
        if isinstance(decision, Dropped):
            return decision
        if not decision:
            return document
        lines, repeated = document["text"].split("\n"), set(decision)
        text = "\n".join(line for index, line in enumerate(lines) if index not in repeated)
        return Edited({**document, "text": text}, {"line_dedup.line": len(repeated)})

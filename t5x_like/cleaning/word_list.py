"""Drops documents with words of a list, for instance obscene or toxic ones. This package contains no list."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from t5x_like.cleaning.hashing import split_words
from t5x_like.cleaning.steps import Document, Dropped
from t5x_like.files.lines import read_lines


def read_word_list(path: Path | str) -> frozenset[str]:
    """The entries of a file, one per line, the format of C4's "List of Dirty, Naughty, Obscene or Otherwise Bad Words"."""
    return frozenset(line.strip() for line in read_lines(path) if line.strip())


@dataclass(frozen=True)
class WordList:
    """Drops a document with more than `max_share` of its words in the list; 0 allows none, as C4 (arXiv:1910.10683, 2.2).

    Entries are words or phrases and match whole words in any case. `rule` names the list in the report.
    """

    entries: frozenset[str]
    max_share: float = 0.0
    rule: str = "bad_words"

    @cached_property
    def phrases(self) -> dict[int, frozenset[str]]:
        """Normalized entries by their number of words."""
        normal = [" ".join(split_words(entry)) for entry in self.entries]
        lengths = {len(entry.split()) for entry in normal} - {0}
        return {n: frozenset(entry for entry in normal if len(entry.split()) == n) for n in sorted(lengths)}

    def __call__(self, document: Document) -> Document | Dropped:
        words = split_words(document["text"])
        matches = list(self.find(words))
        share = sum(len(phrase.split()) for phrase in matches) / max(len(words), 1)
        if share > self.max_share:
            return Dropped(f"word_list.{self.rule}", f"{share:.3f} of words, allowed at most {self.max_share:g}")
        return document

    def find(self, words: list[str]) -> Iterator[str]:
        """Yields every occurrence of an entry."""
        for n, entries in self.phrases.items():
            if n == 1:
                yield from (word for word in words if word in entries)
            else:
                grams = (" ".join(words[start : start + n]) for start in range(len(words) - n + 1))
                yield from (gram for gram in grams if gram in entries)

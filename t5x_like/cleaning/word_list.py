"""Documents with words of a list: obscene, toxic, or whatever the list is of. No list comes with this package."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from t5x_like.cleaning.hashing import normal_words
from t5x_like.cleaning.steps import Document, Dropped


def read_word_list(path: Path | str) -> frozenset[str]:
    """The entries of a file, one a line, as C4's "List of Dirty, Naughty, Obscene or Otherwise Bad Words" comes."""
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return frozenset(line.strip() for line in lines if line.strip())


@dataclass(frozen=True)
class WordList:
    """Drops a document with more than `max_share` of its words in the list; 0, any at all, as C4 (arXiv:1910.10683, 2.2).

    Entries are words or phrases, found as whole words in any case. `rule` names the list in the report.
    """

    entries: frozenset[str]
    max_share: float = 0.0
    rule: str = "bad_words"

    @cached_property
    def phrases(self) -> dict[int, frozenset[str]]:
        """Normal entries by their number of words."""
        normal = [" ".join(normal_words(entry)) for entry in self.entries]
        lengths = {len(entry.split()) for entry in normal} - {0}
        return {n: frozenset(entry for entry in normal if len(entry.split()) == n) for n in sorted(lengths)}

    def __call__(self, document: Document) -> Document | Dropped:
        words = normal_words(document["text"])
        found = list(self.found(words))
        share = sum(len(phrase.split()) for phrase in found) / max(len(words), 1)
        if share > self.max_share:
            return Dropped(f"word_list.{self.rule}", f"{share:.3f} of words, allowed at most {self.max_share:g}")
        return document

    def found(self, words: list[str]) -> Iterator[str]:
        """Every entry that occurs, as often as it does."""
        for n, entries in self.phrases.items():
            if n == 1:
                yield from (word for word in words if word in entries)
            else:
                grams = (" ".join(words[start : start + n]) for start in range(len(words) - n + 1))
                yield from (gram for gram in grams if gram in entries)

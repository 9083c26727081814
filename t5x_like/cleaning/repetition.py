"""The repetition rules of Gopher's MassiveText (Rae et al. 2021, arXiv:2112.11446, appendix A.1.1, table A1)."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from t5x_like.cleaning.steps import Document, Dropped, Measure, first_violation, normalize_lines

PARAGRAPH = re.compile(r"\n{2,}")
LINE = re.compile(r"\n+")


def count_duplicates(items: list[str]) -> tuple[int, int]:
    """(the number of items that copy an earlier one, their characters)."""
    if len(set(items)) == len(items):
        return 0, 0
    copies = [(count - 1, len(item)) for item, count in Counter(items).items() if count > 1]
    return sum(count for count, _ in copies), sum(count * length for count, length in copies)


def number_words(words: list[str]) -> np.ndarray:
    """An integer per word, equal for equal words."""
    ids: dict[str, int] = {}
    return np.fromiter((ids.setdefault(word, len(ids)) for word in words), np.int64, len(words))


def find_repeated_ngrams(words: list[str], longest: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yields (n, positions, labels) of the n-grams that occur more than once, n = 1 ... longest; labels are exact, not hashed.

    An n-gram can only repeat where its first n-1 words do, so each n considers only the positions that n-1 found.
    """
    ids = number_words(words)
    positions = np.flatnonzero(np.bincount(ids, minlength=1)[ids] > 1)
    labels = ids[positions]
    yield 1, positions, labels
    for n in range(2, longest + 1):
        inside = positions + n <= len(ids)
        positions = positions[inside]
        keys = labels[inside] * (len(ids) + 1) + ids[positions + n - 1]
        _, labels, counts = np.unique(keys, return_inverse=True, return_counts=True)
        again = counts[labels] > 1
        positions, labels = positions[again], labels[again]
        yield n, positions, labels


def count_top_characters(n: int, positions: np.ndarray, labels: np.ndarray, ends: np.ndarray) -> int:
    """Characters, with inner spaces, of all occurrences of the most frequent n-gram; of several, the one that occurs first."""
    if not len(labels):
        return 0
    counts = np.bincount(labels)
    start = positions[counts[labels] == counts.max()][0]
    return int(counts.max()) * int(ends[start + n] - ends[start] + n - 1)


def count_duplicate_characters(n: int, positions: np.ndarray, labels: np.ndarray, ends: np.ndarray) -> int:
    """Characters of the words covered by n-grams that occurred before, each word counted once."""
    if not len(labels):
        return 0
    later = np.ones(len(labels), bool)
    later[np.unique(labels, return_index=True)[1]] = False
    edges = np.zeros(len(ends), np.int64)
    np.add.at(edges, positions[later], 1)
    np.add.at(edges, positions[later] + n, -1)
    return int(np.diff(ends)[np.cumsum(edges)[:-1] > 0].sum())


@dataclass(frozen=True)
class GopherRepetition:
    """Gopher's repetition filter. Each bound is a share of table A1: of lines, paragraphs, or the text's characters.

    The first occurrence is not a duplicate, as in FineWeb (arXiv:2406.17557). `top` bounds the most frequent 2-, 3- and 4-gram,
    `repeated` all n-grams of 5 to 10 words seen before; words in overlapping n-grams count once. Blank lines count as one break.
    """

    max_lines: float = 0.30
    max_paragraphs: float = 0.30
    max_line_characters: float = 0.20
    max_paragraph_characters: float = 0.20
    top: tuple[tuple[int, float], ...] = ((2, 0.20), (3, 0.18), (4, 0.16))
    repeated: tuple[tuple[int, float], ...] = ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10))

    def __call__(self, document: Document) -> Document | Dropped:
        return first_violation("gopher_repetition", self.measure(normalize_lines(document["text"]).strip())) or document

    def measure(self, text: str) -> Iterator[Measure]:
        """Each rule's name, value and bounds; n-grams last."""
        paragraphs = PARAGRAPH.split(text)
        count, characters = count_duplicates(paragraphs)
        length = max(len(text), 1)
        yield "paragraphs", count / len(paragraphs), 0, self.max_paragraphs
        yield "paragraph_characters", characters / length, 0, self.max_paragraph_characters
        lines = LINE.split(text)
        count, characters = count_duplicates(lines)
        yield "lines", count / len(lines), 0, self.max_lines
        yield "line_characters", characters / length, 0, self.max_line_characters
        yield from self.measure_ngrams(text.split(), length)

    def measure_ngrams(self, words: list[str], length: int) -> Iterator[Measure]:
        """The n-gram rules."""
        ends = np.concatenate([[0], np.cumsum(np.fromiter(map(len, words), np.int64, len(words)))])
        top, repeated = dict(self.top), dict(self.repeated)
        for n, positions, labels in find_repeated_ngrams(words, max([*top, *repeated], default=0)):
            if n in top:
                yield f"top_{n}_gram", count_top_characters(n, positions, labels, ends) / length, 0, top[n]
            if n in repeated:
                yield (
                    f"duplicate_{n}_gram",
                    count_duplicate_characters(n, positions, labels, ends) / length,
                    0,
                    repeated[n],
                )

"""The quality rules of Gopher's MassiveText (Rae et al. 2021, arXiv:2112.11446, appendix A.1.1)."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from t5x_like.cleaning.steps import Document, Dropped, Measure, first_violation

LETTER = re.compile(r"[^\W\d_]")
STOP_WORDS = frozenset(("the", "be", "to", "of", "and", "that", "have", "with"))
NO_LIMIT = float("inf")


def alphabetic_share(words: list[str]) -> float:
    """The share of words with at least one letter."""
    mixed = [word for word in words if not word.isalpha()]
    return 1 - sum(not LETTER.search(word) for word in mixed) / len(words)


@dataclass(frozen=True)
class GopherQuality:
    """Gopher's quality filter. Words are separated by white space (as in Dolma, arXiv:2402.00159); bounds are inclusive.

    Rules: word count; mean word length in characters; hash signs per word and ellipses per word; share of lines that begin with
    a bullet, and that end in an ellipsis; share of words with a letter; number of the eight stop words that occur.
    """

    min_words: int = 50
    max_words: int = 100_000
    min_mean_word_length: float = 3
    max_mean_word_length: float = 10
    max_symbol_ratio: float = 0.1
    max_bullet_lines: float = 0.9
    max_ellipsis_lines: float = 0.3
    min_alphabetic_words: float = 0.8
    min_stop_words: int = 2
    stop_words: frozenset[str] = STOP_WORDS
    bullets: tuple[str, ...] = ("•", "-", "*", "‣", "●")

    def __call__(self, document: Document) -> Document | Dropped:
        return first_violation("gopher_quality", self.measure(document["text"])) or document

    def measure(self, text: str) -> Iterator[Measure]:
        """Each rule's name, value and bounds, the cheapest first."""
        words = text.split()
        count = len(words)
        yield "word_count", count, max(self.min_words, 1), self.max_words
        mean = sum(map(len, words)) / count
        yield "mean_word_length", mean, self.min_mean_word_length, self.max_mean_word_length
        yield "hash_ratio", text.count("#") / count, 0, self.max_symbol_ratio
        yield "ellipsis_ratio", (text.count("...") + text.count("…")) / count, 0, self.max_symbol_ratio
        lines = [line for line in map(str.strip, text.splitlines()) if line]
        yield (
            "bullet_lines",
            sum(line.startswith(self.bullets) for line in lines) / len(lines),
            0,
            self.max_bullet_lines,
        )
        ellipses = sum(line.endswith(("...", "…")) for line in lines)
        yield "ellipsis_lines", ellipses / len(lines), 0, self.max_ellipsis_lines
        yield "alphabetic_words", alphabetic_share(words), self.min_alphabetic_words, 1
        yield "stop_words", len(self.stop_words.intersection(text.lower().split())), self.min_stop_words, NO_LIMIT

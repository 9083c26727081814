"""The line rules of FineWeb (Penedo et al. 2024, arXiv:2406.17557, section 3.6)."""

from collections.abc import Iterator
from dataclasses import dataclass

from t5x_like.cleaning.repetition import count_duplicates
from t5x_like.cleaning.steps import Document, Dropped, Measure, first_violation, normalize_lines

TERMINAL = (".", "!", "?", "…", "。", "！", "？", "؟", "۔", "।", "｡", "．", '."', '!"', '?"', ".”", "!”", "?”")


@dataclass(frozen=True)
class FineWebQuality:
    """FineWeb's custom filter: lines that end in punctuation, characters in duplicate lines, short lines, line breaks.

    A terminal mark may be followed by a closing quote. Empty lines are ignored.
    """

    min_terminal_lines: float = 0.12
    max_duplicate_line_characters: float = 0.01
    max_short_lines: float = 0.67
    short_line: int = 30
    max_line_breaks_per_word: float = 0.3
    terminal: tuple[str, ...] = TERMINAL

    def __call__(self, document: Document) -> Document | Dropped:
        return first_violation("fineweb", self.measure(normalize_lines(document["text"]))) or document

    def measure(self, text: str) -> Iterator[Measure]:
        """Each rule's name, value and bounds."""
        lines = [line for line in text.split("\n") if line.strip()]
        yield "lines", len(lines), 1, float("inf")
        ended = sum(line.rstrip().endswith(self.terminal) for line in lines)
        yield "terminal_lines", ended / len(lines), self.min_terminal_lines, 1
        short = sum(len(line) <= self.short_line for line in lines)
        yield "short_lines", short / len(lines), 0, self.max_short_lines
        copied = count_duplicates(lines)[1] / len(text.replace("\n", ""))
        yield "duplicate_line_characters", copied, 0, self.max_duplicate_line_characters
        yield "line_breaks", text.count("\n") / len(text.split()), 0, self.max_line_breaks_per_word

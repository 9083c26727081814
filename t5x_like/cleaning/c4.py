"""The rules of C4 (Raffel et al. 2020, arXiv:1910.10683, section 2.2; details from its code, tfds text/c4_utils.py)."""

import re
from collections import Counter
from dataclasses import dataclass

from t5x_like.cleaning.steps import Document, Dropped, Edited

CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
SENTENCE_END = re.compile(r"[.!?](?<![.!?].)[.!?]*+[\"'”’)\]]*+(?=\s++[^a-z]|\s*+$)")
POLICY = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")


def count_sentences(text: str) -> int:
    """Counts sentence ends before a capital, a digit or the end of the text; at least one if the text has words."""
    return len(SENTENCE_END.findall(text)) or bool(text.strip())


@dataclass(frozen=True)
class C4:
    """C4's line and page rules, in the order of its code. A page keeps the lines that pass.

    Lines: no word over max_word_characters; citations removed; ends in a terminal mark and not in an ellipsis; min_line_words;
    no "javascript"; no policy notice. Pages: no "lorem ipsum", no curly bracket in a line that passed so far,
    min_sentences in the remaining lines. An empty tuple switches its rule off. Bad words are `word_list.WordList`.
    """

    terminal: tuple[str, ...] = (".", "?", "!", '"')
    min_line_words: int = 3
    max_word_characters: int = 1000
    min_sentences: int = 5
    banned_in_page: tuple[str, ...] = ("lorem ipsum", "{")
    banned_in_line: tuple[str, ...] = ("javascript",)
    policy: tuple[str, ...] = POLICY

    def __call__(self, document: Document) -> Document | Edited | Dropped:
        lines: list[str] = []
        removed: Counter[str] = Counter()
        for line in document["text"].splitlines():
            line, rule = self.check_line(line.strip())
            if rule in self.banned_in_page:
                return Dropped(f"c4.{'curly_bracket' if rule == '{' else rule.replace(' ', '_')}")
            if rule:
                removed[f"c4.{rule}"] += 1
            else:
                lines.append(line)
        count = sum(map(count_sentences, lines))
        if count < self.min_sentences:
            return Dropped("c4.sentences", f"{count}, allowed at least {self.min_sentences}")
        text = "\n".join(lines)
        return document if text == document["text"] else Edited({**document, "text": text}, removed)

    def check_line(self, line: str) -> tuple[str, str]:
        """Returns (the line without citations, the rule it violates or "")."""
        words = line.split()
        if len(line) > self.max_word_characters and max(map(len, words)) > self.max_word_characters:
            return line, "line_long_word"
        if "[" in line:
            line = CITATION.sub("", line)
        if self.terminal and (not line.endswith(self.terminal) or line.endswith("...")):
            return line, "line_terminal_mark"
        if len(words) < self.min_line_words:
            return line, "line_words"
        lower = line.lower()
        page = next((phrase for phrase in self.banned_in_page if phrase in lower), "")
        if page:
            return line, page
        if any(phrase in lower for phrase in self.banned_in_line):
            return line, "line_javascript"
        if any(phrase in lower for phrase in self.policy):
            return line, "line_policy"
        return line, ""

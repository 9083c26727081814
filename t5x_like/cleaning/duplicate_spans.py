"""Spans of three sentences that occur twice: C4's deduplication (Raffel et al. 2020, arXiv:1910.10683, section 2.2)."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from t5x_like.cleaning.c4 import SENTENCE_END
from t5x_like.cleaning.dedup import normalize_words
from t5x_like.cleaning.hashing import ngram_hashes, word_hashes
from t5x_like.cleaning.steps import Document, Dropped, Edited, StatefulStep


def split_sentences(text: str) -> list[str]:
    """Splits a text after each sentence and line; the parts join to the text. White space belongs to the part before it."""
    starts, line_start = [0], 0
    for line in text.splitlines(keepends=True):
        ends = [0, *(match.end() for match in SENTENCE_END.finditer(line)), len(line)]
        starts += [
            line_start + start for start, end in pairwise(ends) if line_start + start and line[start:end].strip()
        ]
        line_start += len(line)
    return [text[start:end] for start, end in pairwise([*starts, len(text)]) if end > start]


Spans = tuple[np.ndarray, list[int]]  # hash of the span that begins at each sentence, and the sentences' words


@dataclass(frozen=True)
class SpanDedup(StatefulStep):
    """Removes spans of `sentences` sentences seen before, in this document or an earlier one; 64-bit hashes.

    Case and white space are ignored. A document left with fewer than min_words_left words is dropped, and its spans do not
    count as seen.
    """

    sentences: int = 3
    min_words_left: int = 1

    def sketch(self, document: Document) -> Spans:
        parts = split_sentences(document["text"])
        hashes = word_hashes(list(map(normalize_words, parts)))
        return ngram_hashes(hashes, self.sentences), [len(part.split()) for part in parts]

    def make_decider(self) -> Callable[[Spans, object], list[int] | Dropped]:
        """The decision is the indices of the sentences to remove."""
        seen: set[int] = set()

        def decide(spans: Spans, name: object) -> list[int] | Dropped:
            hashes, words = spans
            new: set[int] = set()
            repeated: set[int] = set()
            for index, key in enumerate(hashes.tolist()):
                if key in seen or key in new:
                    repeated.update(range(index, index + self.sentences))
                else:
                    new.add(key)
            if sum(words) - sum(words[index] for index in repeated) < self.min_words_left:
                return Dropped("span_dedup.words_left", f"{len(repeated)} of {len(words)} sentences were seen before")
            seen.update(new)
            return sorted(repeated)

        return decide

    def apply(self, document: Document, decision: list[int] | Dropped) -> Document | Edited | Dropped:
        if isinstance(decision, Dropped):
            return decision
        if not decision:
            return document
        repeated = set(decision)
        kept = [part for index, part in enumerate(split_sentences(document["text"])) if index not in repeated]
        return Edited({**document, "text": "".join(kept).rstrip()}, {"span_dedup.sentence": len(repeated)})

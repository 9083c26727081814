"""Three sentences that occur twice: C4's deduplication (Raffel et al. 2020, arXiv:1910.10683, section 2.2)."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from t5x_like.cleaning.c4 import SENTENCE_END
from t5x_like.cleaning.dedup import same_words
from t5x_like.cleaning.hashing import ngram_hashes, word_hashes
from t5x_like.cleaning.steps import Document, Dropped, Edited, Remembering


def sentence_parts(text: str) -> list[str]:
    """The text cut after its sentences and lines; together they are the text. White space belongs to the part before it."""
    cut: list[str] = []
    for line in text.splitlines(keepends=True):
        ends = [0, *(match.end() for match in SENTENCE_END.finditer(line)), len(line)]
        for part in (line[start:end] for start, end in pairwise(ends)):
            if part.strip() or not cut:
                cut.append(part)
            else:
                cut[-1] += part
    return cut


Spans = tuple[np.ndarray, list[int]]  # hash of the span that begins at each sentence, and the sentences' words


@dataclass(frozen=True)
class SpanDedup(Remembering):
    """Removes spans of `sentences` sentences seen before, in this document or an earlier one; 64-bit hashes.

    Sentences are equal but for case and white space. A document left with fewer than min_words_left words is dropped, and its
    spans do not count as seen.
    """

    sentences: int = 3
    min_words_left: int = 1

    def sketch(self, document: Document) -> Spans:
        parts = sentence_parts(document["text"])
        return ngram_hashes(word_hashes(list(map(same_words, parts))), self.sentences), [len(p.split()) for p in parts]

    def judge(self) -> Callable[[Spans, object], list[int] | Dropped]:
        """The verdict is the places of the sentences to remove."""
        seen: set[int] = set()

        def verdict(spans: Spans, name: object) -> list[int] | Dropped:
            hashes, words = spans
            new: set[int] = set()
            cut: set[int] = set()
            for place, key in enumerate(hashes.tolist()):
                if key in seen or key in new:
                    cut.update(range(place, place + self.sentences))
                else:
                    new.add(key)
            if sum(words) - sum(words[place] for place in cut) < self.min_words_left:
                return Dropped("span_dedup.words_left", f"{len(cut)} of {len(words)} sentences were seen before")
            seen.update(new)
            return sorted(cut)

        return verdict

    def apply(self, document: Document, verdict: list[int] | Dropped) -> Document | Edited | Dropped:
        if not verdict or isinstance(verdict, Dropped):
            return verdict or document
        cut = set(verdict)
        kept = [part for place, part in enumerate(sentence_parts(document["text"])) if place not in cut]
        return Edited({**document, "text": "".join(kept).rstrip()}, {"span_dedup.sentence": len(cut)})

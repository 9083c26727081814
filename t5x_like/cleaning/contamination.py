"""Test items in training text: n-gram overlap, as a filter of documents and as a report on the items."""

import concurrent.futures
import contextlib
import multiprocessing
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from t5x_like.cleaning.hashing import ngram_hashes, normal_words, word_hashes
from t5x_like.cleaning.steps import Document, Dropped, Step

SIZES = (8, 13)
Items = Mapping[str, str]  # name of a test item -> its text


def item_ngrams(text: str, n: int, min_words: int) -> tuple[int, np.ndarray]:
    """(length, hashes) of an item's n-grams; a shorter item is one n-gram, and none below min_words."""
    hashes = word_hashes(normal_words(text))
    length = min(n, len(hashes))
    return length, np.unique(ngram_hashes(hashes, length)) if length >= min_words else np.zeros(0, np.uint64)


@dataclass(frozen=True)
class Index:
    """The n-grams of test items by their length: sorted hashes, and the items of each."""

    hashes: dict[int, np.ndarray]
    names: dict[int, str]

    @classmethod
    def of(cls, items: Items, n: int, min_words: int) -> "Index":
        """Of all items."""
        by_length, names = defaultdict(list), {}
        for name, text in items.items():
            length, found = item_ngrams(text, n, min_words)
            by_length[length].append(found)
            names.update(dict.fromkeys(found.tolist(), name))
        return cls({length: np.unique(np.concatenate(found)) for length, found in by_length.items()}, names)

    def found(self, text: str) -> np.ndarray:
        """The hashes of the index that occur in a text."""
        words = word_hashes(normal_words(text))
        hits = [np.intersect1d(ngram_hashes(words, length), known) for length, known in self.hashes.items() if length]
        return np.concatenate(hits) if hits else np.zeros(0, np.uint64)


@dataclass(frozen=True)
class Decontaminate:
    """Drops a document that shares an n-gram of words with a test item; 13 words as GPT-3 (Brown et al. 2020, appendix C).

    Words are in lower case without punctuation. Items of fewer than n words count as a whole, those below `min_words` not at
    all (GPT-3 bounds n below by 8).
    """

    items: Items
    n: int = 13
    min_words: int = 8
    min_hits: int = 1

    def start(self) -> Step:
        """The step of one run."""
        index = Index.of(self.items, self.n, self.min_words)

        def step(document: Document) -> Document | Dropped:
            found = index.found(document["text"])
            if len(found) >= self.min_hits:
                name = index.names[int(found[0])]
                return Dropped("contamination.ngram", f"{len(found)} {self.n}-grams of test items, {name} among them")
            return document

        return step


def overlap(documents: Iterable[Document], items: Items, sizes: tuple[int, ...] = SIZES, min_words: int = 8):
    """{n: {item: share of its n-grams that occur in the documents}}, nan for an item too short to tell.

    GPT-3 calls an item dirty at any 13-gram; PaLM (Chowdhery et al. 2022, section 8) at 70% of its 8-grams.
    """
    return shares(items, seen(documents, indices(items, sizes, min_words)), min_words)


def overlap_of_files(
    paths: Sequence[Path],
    read: Callable[[Path], Iterable[Document | Dropped]],
    items: Items,
    sizes: tuple[int, ...] = SIZES,
    min_words: int = 8,
    workers: int = 1,
):
    """`overlap` of the documents that can be read of files, by several processes."""
    task = partial(seen_in_file, read, indices(items, sizes, min_words))
    together: dict[int, set[int]] = {n: set() for n in sizes}
    with contextlib.ExitStack() as stack:
        each = map
        if workers > 1:
            context = multiprocessing.get_context("spawn")
            each = stack.enter_context(concurrent.futures.ProcessPoolExecutor(workers, context)).map
        for found in each(task, paths):
            for n in sizes:
                together[n] |= found[n]
    return shares(items, together, min_words)


def indices(items: Items, sizes: tuple[int, ...], min_words: int) -> dict[int, Index]:
    """The n-grams of items for each n."""
    return {n: Index.of(items, n, min_words) for n in sizes}


def seen(documents: Iterable[Document], indices: dict[int, Index]) -> dict[int, set[int]]:
    """The hashes of each index that occur in documents."""
    seen: dict[int, set[int]] = {n: set() for n in indices}
    for document in documents:
        for n, index in indices.items():
            seen[n].update(index.found(document["text"]).tolist())
    return seen


def seen_in_file(read, indices: dict[int, Index], path: Path) -> dict[int, set[int]]:
    """`seen` in the documents of a file."""
    texts = (document for document in read(path) if not isinstance(document, Dropped))
    return seen((document for document in texts if isinstance(document.get("text"), str)), indices)


def shares(items: Items, seen: dict[int, set[int]], min_words: int) -> dict[int, dict[str, float]]:
    """How much of each item was seen, for each n."""
    return {n: {name: share(text, n, min_words, seen[n]) for name, text in items.items()} for n in seen}


def share(text: str, n: int, min_words: int, seen: set[int]) -> float:
    """How much of an item was seen."""
    grams = item_ngrams(text, n, min_words)[1].tolist()
    return sum(gram in seen for gram in grams) / len(grams) if grams else float("nan")

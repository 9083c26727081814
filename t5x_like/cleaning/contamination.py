"""Test items in training text: drops documents by n-gram overlap, and reports the overlap of each item."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from t5x_like.cleaning import workers as worker_processes
from t5x_like.cleaning.hashing import ngram_hashes, split_words, word_hashes
from t5x_like.cleaning.steps import Document, Dropped, Step

SIZES = (8, 13)
Items = Mapping[str, str]  # name of a test item -> its text


def hash_item(text: str, n: int, min_words: int) -> tuple[int, np.ndarray]:
    """(length, hashes) of an item's n-grams. A shorter item is one n-gram; below min_words it has none."""
    hashes = word_hashes(split_words(text))
    length = min(n, len(hashes))
    return length, np.unique(ngram_hashes(hashes, length)) if length >= min_words else np.zeros(0, np.uint64)


@dataclass(frozen=True)
class Index:
    """The n-grams of test items by length: sorted hashes, and the item of each hash."""

    hashes: dict[int, np.ndarray]
    names: dict[int, str]

    @classmethod
    def build(cls, items: Items, n: int, min_words: int) -> "Index":
        """Builds the index of all items."""
        by_length, names = defaultdict(list), {}
        for name, text in items.items():
            length, grams = hash_item(text, n, min_words)
            by_length[length].append(grams)
            names.update(dict.fromkeys(grams.tolist(), name))
        return cls({length: np.unique(np.concatenate(grams)) for length, grams in by_length.items()}, names)

    def find(self, text: str) -> np.ndarray:
        """The hashes of the index that occur in a text."""
        words = word_hashes(split_words(text))
        hits = [np.intersect1d(ngram_hashes(words, length), known) for length, known in self.hashes.items() if length]
        return np.concatenate(hits) if hits else np.zeros(0, np.uint64)


@dataclass(frozen=True)
class Decontaminate:
    """Drops a document that shares an n-gram of words with a test item; n = 13 as GPT-3 (Brown et al. 2020, appendix C).

    Words are in lower case without punctuation. An item with fewer than n words counts as one n-gram, and is ignored below
    `min_words` (GPT-3 uses n of at least 8).
    """

    items: Items
    n: int = 13
    min_words: int = 8
    min_hits: int = 1

    def start(self) -> Step:
        """Builds the index and returns the step."""
        index = Index.build(self.items, self.n, self.min_words)

        def step(document: Document) -> Document | Dropped:
            hits = index.find(document["text"])
            if len(hits) >= self.min_hits:
                name = index.names[int(hits[0])]
                return Dropped("contamination.ngram", f"{len(hits)} {self.n}-grams of test items, {name} among them")
            return document

        return step


def measure_overlap(
    documents: Iterable[Document], items: Items, sizes: tuple[int, ...] = SIZES, min_words: int = 8
) -> dict[int, dict[str, float]]:
    """{n: {item: share of its n-grams that occur in the documents}}; NaN for an item below min_words.

    GPT-3 calls an item dirty at any 13-gram; PaLM (Chowdhery et al. 2022, section 8) at 70% of its 8-grams.
    """
    return compute_shares(items, find_seen(documents, build_indices(items, sizes, min_words)), min_words)


def measure_overlap_of_files(
    paths: Sequence[Path],
    read: Callable[[Path], Iterable[Document | Dropped]],
    items: Items,
    sizes: tuple[int, ...] = SIZES,
    min_words: int = 8,
    workers: int = 1,
) -> dict[int, dict[str, float]]:
    """`measure_overlap` of the readable documents of files, with several processes."""
    seen: dict[int, set[int]] = {n: set() for n in sizes}
    with worker_processes.start(workers, build_indices(items, sizes, min_words)) as run:
        for seen_in_file in run(partial(find_seen_in_file, read), paths):
            for n in sizes:
                seen[n] |= seen_in_file[n]
    return compute_shares(items, seen, min_words)


def build_indices(items: Items, sizes: tuple[int, ...], min_words: int) -> dict[int, Index]:
    """The index of the items for each n."""
    return {n: Index.build(items, n, min_words) for n in sizes}


def find_seen(documents: Iterable[Document], indices: dict[int, Index]) -> dict[int, set[int]]:
    """The hashes of each index that occur in the documents."""
    seen: dict[int, set[int]] = {n: set() for n in indices}
    for document in documents:
        for n, index in indices.items():
            seen[n].update(index.find(document["text"]).tolist())
    return seen


def find_seen_in_file(
    read: Callable[[Path], Iterable[Document | Dropped]], indices: dict[int, Index], path: Path
) -> dict[int, set[int]]:
    """`find_seen` of the documents of a file."""
    texts = (document for document in read(path) if not isinstance(document, Dropped))
    return find_seen((document for document in texts if isinstance(document.get("text"), str)), indices)


def compute_shares(items: Items, seen: dict[int, set[int]], min_words: int) -> dict[int, dict[str, float]]:
    """The share of each item's n-grams that were seen, for each n."""
    return {n: {name: compute_share(text, n, min_words, seen[n]) for name, text in items.items()} for n in seen}


def compute_share(text: str, n: int, min_words: int, seen: set[int]) -> float:
    """The share of an item's n-grams that were seen."""
    grams = hash_item(text, n, min_words)[1].tolist()
    return sum(gram in seen for gram in grams) / len(grams) if grams else float("nan")

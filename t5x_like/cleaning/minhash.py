"""Near copies by MinHash signatures (Broder 1997) and locality-sensitive hashing in bands (Leskovec et al., chapter 3)."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from t5x_like.cleaning.hashing import ngram_hashes, split_words, word_hashes
from t5x_like.cleaning.steps import Document, Dropped, StatefulStep

CHUNK = 4096


@dataclass(frozen=True)
class MinHash:
    """Signatures: the minimum of h(s) = (a s + b mod 2**64) >> 32 over the shingles s, for `hashes` pairs (a odd, b).

    The share of equal entries of two signatures estimates the Jaccard index J of their sets of shingles, with standard
    deviation sqrt(J (1 - J) / hashes). h is 2-universal for 32-bit s (Dietzfelbinger 1996). Shingles of 5 words, as FineWeb.
    """

    hashes: int = 112
    shingle_words: int = 5
    seed: int = 0

    @cached_property
    def coefficients(self) -> tuple[np.ndarray, np.ndarray]:
        """a and b, uint64, each [hashes, 1]."""
        random = np.random.default_rng(self.seed).integers(0, 2**64, (2, self.hashes, 1), np.uint64)
        return random[0] | np.uint64(1), random[1]

    def shingles(self, text: str) -> np.ndarray:
        """32-bit hashes of the distinct shingles; a shorter text is one shingle."""
        hashes = word_hashes(split_words(text))
        n = max(min(self.shingle_words, len(hashes)), 1)
        return np.unique(ngram_hashes(hashes, n) >> np.uint64(32))

    def signature(self, text: str) -> np.ndarray:
        """The signature, uint32 [hashes]; all 2**32 - 1 for a text without words."""
        slope, offset = self.coefficients
        minimum = np.full(self.hashes, 2**32 - 1, np.uint64)
        shingles = self.shingles(text)
        for start in range(0, len(shingles), CHUNK):
            values = (slope * shingles[start : start + CHUNK] + offset) >> np.uint64(32)
            np.minimum(minimum, values.min(axis=1), out=minimum)
        return minimum.astype(np.uint32)


def jaccard(one: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The estimate of J from signatures [hashes] and [hashes] or [N, hashes]."""
    return (one == others).mean(axis=-1)


@dataclass(frozen=True)
class NearDedup(StatefulStep):
    """Drops a document whose estimated Jaccard index with an earlier kept document reaches `threshold`.

    Documents are compared if one of the `bands` parts of their signatures is equal. With r = hashes / bands rows each, a pair
    with index J is compared with probability 1 - (1 - J**r)**bands: 0.77 at J = 0.75, 0.92 at 0.8, 1.00 at 0.9 for FineWeb's
    14 bands of 8 (arXiv:2406.17557, section 3.4). Memory: 4 x hashes bytes and one key per band for each kept document.
    """

    minhash: MinHash = field(default_factory=MinHash)
    bands: int = 14
    threshold: float = 0.75

    def __post_init__(self):
        if self.minhash.hashes % self.bands:
            raise ValueError(
                f"bands={self.bands} does not divide hashes={self.minhash.hashes}; use 14 bands of 112 hashes"
            )

    def sketch(self, document: Document) -> np.ndarray:
        return self.minhash.signature(document["text"])

    def make_decider(self) -> Callable[[np.ndarray, object], Dropped | None]:
        tables: list[dict[bytes, list[int]]] = [defaultdict(list) for _ in range(self.bands)]
        signatures: list[np.ndarray] = []
        names: list[object] = []

        def decide(signature: np.ndarray, name: object) -> Dropped | None:
            keys = [band.tobytes() for band in signature.reshape(self.bands, -1)]
            buckets = [table.get(key, ()) for table, key in zip(tables, keys, strict=True)]
            candidates = sorted({other for bucket in buckets for other in bucket})
            if candidates:
                similarity = jaccard(signature, np.stack([signatures[other] for other in candidates]))
                best = int(similarity.argmax())
                if similarity[best] >= self.threshold:
                    return Dropped("near_dedup.copy", f"Jaccard {similarity[best]:.2f} with {names[candidates[best]]}")
            for table, key in zip(tables, keys, strict=True):
                table[key].append(len(signatures))
            signatures.append(signature)
            names.append(name)
            return None

        return decide

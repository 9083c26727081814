"""64-bit hashes of words and n-grams, equal in every process, in vectorised NumPy."""

import re
from functools import lru_cache
from hashlib import blake2b

import numpy as np

WORD = re.compile(r"\w+")
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def split_words(text: str) -> list[str]:
    """The words of a text in lower case without punctuation."""
    return WORD.findall(text.lower())


@lru_cache(maxsize=1 << 18)
def word_hash(word: str) -> int:
    """64 bits of BLAKE2b."""
    return int.from_bytes(blake2b(word.encode("utf-8", "replace"), digest_size=8).digest(), "little")


def word_hashes(words: list[str]) -> np.ndarray:
    """The hash of each word, uint64."""
    return np.fromiter(map(word_hash, words), np.uint64, len(words))


def mix(values: np.ndarray) -> np.ndarray:
    """Spreads every bit of a uint64 over all its bits (the finaliser of SplitMix64, Steele et al. 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def ngram_hashes(hashes: np.ndarray, n: int) -> np.ndarray:
    """The hash of the n-gram at each position, uint64; empty if there are fewer than n words."""
    count = max(len(hashes) - n + 1, 0)
    total = np.full(count, n, np.uint64)
    for offset in range(n):
        total = total * MULTIPLIER + hashes[offset : offset + count]
    return mix(total)

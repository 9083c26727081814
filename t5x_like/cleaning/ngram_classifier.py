"""Softmax regression on hashed n-grams, trained in NumPy: classifies the language or the quality of a text."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from t5x_like.cleaning.hashing import mix, ngram_hashes, split_words, word_hashes

Features = tuple[np.ndarray, np.ndarray]  # (buckets, values): int64 [K] and float64 [K], values of Euclidean length 1


def hash_features(grams: list[np.ndarray], buckets: int) -> Features:
    """log(1 + count) of each bucket that occurs, scaled to Euclidean length 1."""
    indices, counts = np.unique(np.concatenate(grams) % np.uint64(buckets), return_counts=True)
    values = np.log1p(counts)
    return indices.astype(np.int64), values / max(np.linalg.norm(values), 1e-12)


@dataclass(frozen=True)
class CharacterNgrams:
    """Character n-grams of the beginning of a text, in lower case: for languages (Cavnar & Trenkle 1994)."""

    shortest: int = 1
    longest: int = 4
    buckets: int = 1 << 15
    max_characters: int = 4000

    def __call__(self, text: str) -> Features:
        text = f" {' '.join(text[: self.max_characters].lower().split())} "
        codes = mix(np.frombuffer(text.encode("utf-32-le", "replace"), "<u4").astype(np.uint64))
        return hash_features([ngram_hashes(codes, n) for n in range(self.shortest, self.longest + 1)], self.buckets)


@dataclass(frozen=True)
class WordNgrams:
    """Word n-grams, for quality (GPT-3's classifier, Brown et al. 2020, appendix A, hashes words; fastText adds bigrams)."""

    longest: int = 2
    buckets: int = 1 << 18
    max_characters: int = 100_000

    def __call__(self, text: str) -> Features:
        hashes = word_hashes(split_words(text[: self.max_characters]))
        return hash_features([ngram_hashes(hashes, n) for n in range(1, self.longest + 1)], self.buckets)


FEATURES = {kind.__name__: kind for kind in (CharacterNgrams, WordNgrams)}


@dataclass(frozen=True, eq=False)
class NgramClassifier:
    """p(label | text) = softmax(weights.T @ features(text) + bias)."""

    labels: tuple[str, ...]
    features: CharacterNgrams | WordNgrams
    weights: np.ndarray  # buckets x labels
    bias: np.ndarray  # labels

    def probabilities(self, text: str) -> np.ndarray:
        """The probability of each label, [labels]."""
        buckets, values = self.features(text)
        return softmax(values @ self.weights[buckets] + self.bias)

    def probability(self, label: str, text: str) -> float:
        """The probability of one label."""
        return float(self.probabilities(text)[self.labels.index(label)])

    def classify(self, text: str) -> tuple[str, float]:
        """The most probable label and its probability."""
        p = self.probabilities(text)
        return self.labels[int(p.argmax())], float(p.max())

    def save(self, path: Path | str) -> None:
        """Writes one .npz file."""
        kind = {"labels": self.labels, "kind": type(self.features).__name__, "features": asdict(self.features)}
        with open(path, "wb") as file:
            np.savez_compressed(file, weights=self.weights, bias=self.bias, kind=json.dumps(kind))

    @classmethod
    def load(cls, path: Path | str) -> "NgramClassifier":
        """Reads a file of save()."""
        with np.load(path, allow_pickle=False) as file:
            kind = json.loads(str(file["kind"]))
            features = FEATURES[kind["kind"]](**kind["features"])
            return cls(tuple(kind["labels"]), features, file["weights"], file["bias"])


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis."""
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def train(
    texts: Sequence[str],
    labels: Sequence[str],
    features: CharacterNgrams | WordNgrams,
    epochs: int = 5,
    learning_rate: float = 0.5,
    batch_size: int = 32,
    seed: int = 0,
) -> NgramClassifier:
    """Minimises cross-entropy by Adagrad (Duchi et al. 2011) over batches shuffled with `seed`.

    Raises:
      ValueError: fewer than two labels, or not one label per text.
    """
    names = tuple(sorted(set(labels)))
    if len(names) < 2 or len(texts) != len(labels):
        raise ValueError(f"{len(texts)} texts with {len(labels)} labels of {len(names)} kinds; give at least two kinds")
    rows = [features(text) for text in texts]
    targets = np.eye(len(names))[[names.index(label) for label in labels]]
    weights, bias = np.zeros((features.buckets, len(names)), np.float32), np.zeros(len(names))
    squares, bias_squares = np.full_like(weights, 1e-6), np.full(len(names), 1e-6)
    random = np.random.default_rng(seed)
    for _ in range(epochs):
        for batch in np.array_split(random.permutation(len(rows)), -(-len(rows) // batch_size)):
            buckets, slopes, bias_slopes = gradient([rows[i] for i in batch], targets[batch], weights, bias)
            squares[buckets] += slopes**2
            weights[buckets] -= learning_rate * slopes / np.sqrt(squares[buckets])
            bias_squares += bias_slopes**2
            bias -= learning_rate * bias_slopes / np.sqrt(bias_squares)
    return NgramClassifier(names, features, weights, bias)


def gradient(
    rows: list[Features], targets: np.ndarray, weights: np.ndarray, bias: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The gradient of the mean cross-entropy of a batch: (buckets [K], weight slopes [K, labels], bias slopes [labels])."""
    of_row = np.repeat(np.arange(len(rows)), [len(buckets) for buckets, _ in rows])
    buckets, inverse = np.unique(np.concatenate([buckets for buckets, _ in rows]), return_inverse=True)
    values = np.concatenate([values for _, values in rows])[:, None]
    logits = np.tile(bias, (len(rows), 1))
    np.add.at(logits, of_row, values * weights[buckets][inverse])
    errors = (softmax(logits) - targets) / len(rows)
    slopes = np.zeros((len(buckets), len(bias)))
    np.add.at(slopes, inverse, values * errors[of_row])
    return buckets, slopes, errors.sum(0)

"""Token caches of a few generated documents, written without seqio and TensorFlow."""

from pathlib import Path

import numpy as np

from t5x_like.data.cache import token_cache
from t5x_like.data.cache import writer as cache_writer
from t5x_like.data.cache.token_cache import TokenCache
from t5x_like.data.tokenizers.vocabularies import EOS, ByteVocabulary

WORDS = """def class return if else for while in not and or import from as with try raise yield lambda pass"""


def documents(count: int, seed: int = 0, words: int = 60) -> list[str]:
    """Returns texts of random Python words, of different lengths."""
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(WORDS.split(), random.integers(1, words))) for _ in range(count)]


def write(root, features: dict[str, list[str]], task: str = "tiny", split: str = "train") -> TokenCache:
    """Writes a cache of byte tokens; every feature is a list of texts."""
    vocabulary, inputs = ByteVocabulary(), {"task": task, "split": split, "modules": {}, "versions": {}}
    folder = Path(root) / task / token_cache.fingerprint_of(inputs) / split
    folder.mkdir(parents=True)
    ids = {name: [np.array([*vocabulary.encode(text), EOS]) for text in texts] for name, texts in features.items()}
    examples = (dict(zip(ids, example, strict=True)) for example in zip(*ids.values(), strict=True))
    cache_writer.write(folder, task, split, inputs, vocabulary, list(features), examples)
    return TokenCache(task, split, root=str(root))


def write_all(root) -> None:
    """Writes task `tiny` (documents) and task `pairs` (inputs and targets), both splits."""
    for seed, split in enumerate(("train", "validation")):
        write(root, {"targets": documents(120, seed)}, "tiny", split)
        pairs = {"inputs": documents(90, seed + 2, 8), "targets": documents(90, seed + 4, 8)}
        write(root, pairs, "pairs", split)

"""A token cache of random documents, for benchmarks that need no corpus."""

import tempfile
from pathlib import Path

import numpy as np

from t5x_like.data.cache import token_cache
from t5x_like.data.cache import writer as cache_writer
from t5x_like.data.cache.token_cache import TokenCache
from t5x_like.data.tokenizers.vocabularies import ByteVocabulary


def make_cache(documents: int, longest: int = 3000) -> TokenCache:
    """Writes documents of 200 to `longest` bytes, so that a row of 2048 holds several."""
    random, inputs = np.random.default_rng(0), {"task": "synthetic"}
    root = Path(tempfile.mkdtemp())
    folder = root / "synthetic" / token_cache.fingerprint_of(inputs) / "train"
    folder.mkdir(parents=True)
    examples = ({"targets": random.integers(3, 259, random.integers(200, longest))} for _ in range(documents))
    cache_writer.write(folder, "synthetic", "train", inputs, ByteVocabulary(), ["targets"], examples)
    return TokenCache("synthetic", "train", root=str(root), fingerprint=token_cache.fingerprint_of(inputs))

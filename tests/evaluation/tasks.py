"""Token caches of tasks with metrics, written without seqio, and metrics controlled by tests."""

import threading
from pathlib import Path

import numpy as np

from t5x_like.data.cache import token_cache
from t5x_like.data.cache import writer as cache_writer
from t5x_like.data.cache.token_cache import TokenCache
from t5x_like.data.tokenizers.vocabularies import EOS, ByteVocabulary

METRICS = "t5x_like.text_metrics."
PAIRS = [("a?", "yes"), ("bc?", "no"), ("def?", "yes"), ("g?", "maybe"), ("hij?", "no")]
RELEASED = threading.Event()  # `waits` waits for it


def waits(targets, predictions):
    """Waits until RELEASED is set: a slow metric."""
    if not RELEASED.wait(60):
        raise TimeoutError("RELEASED was not set while the metric ran")
    return {"waited": 1.0}


def breaks(targets, predictions):
    """Raises an error: a metric that fails."""
    raise ZeroDivisionError("a metric's own fault")


def named(function: str, **options) -> dict:
    """Returns the manifest entry of a function."""
    return {"function": function, "options": options}


def write(root, task, examples, metrics, postprocess=None, split="validation", vocabulary=None) -> TokenCache:
    """Writes a cache of examples: arrays are features, other fields go into the sidecar."""
    vocabulary, inputs = vocabulary or ByteVocabulary(), {"task": task, "split": split}
    folder = Path(root) / task / token_cache.fingerprint_of(inputs) / split
    folder.mkdir(parents=True)
    features = [name for name, value in examples[0].items() if isinstance(value, np.ndarray)]
    evaluation = {"metrics": metrics, "postprocess": postprocess}
    cache_writer.write(folder, task, split, inputs, vocabulary, features, examples, evaluation)
    return TokenCache(task, split, __name__, root=str(root))


def pair(inputs: str, targets: str, **fields) -> dict:
    """Returns an example with both features, tokenized as by seqio."""
    ids = {name: ids_of(text) for name, text in (("inputs", inputs), ("targets", targets))}
    return ids | {"inputs_pretokenized": inputs, "targets_pretokenized": targets} | fields


def ids_of(text: str) -> np.ndarray:
    return np.array([*ByteVocabulary().encode(text), EOS])


def write_pairs(root, task="pairs", metrics=(named(METRICS + "answers:exact_match"),), split="validation", **fields):
    return write(root, task, [pair(*texts, **fields) for texts in PAIRS], list(metrics), split=split)

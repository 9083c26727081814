"""Mixtures that are registered with seqio: their rates, read without seqio, as rates of rows."""

import dataclasses
import json
from collections.abc import Sequence

import numpy as np

from t5x_like.data.cache import token_cache
from t5x_like.data.cache.token_cache import TokenCache

RECORD = "mixture.json"


@dataclasses.dataclass(frozen=True)
class ByExamples:
    """seqio's rates, which are of examples, as rates of rows: rate * rows / documents of each task."""

    rates: tuple[float, ...]
    documents: tuple[int, ...]

    def __call__(self, sizes: Sequence[int]) -> np.ndarray:
        return np.asarray(self.rates) * np.asarray(sizes) / np.asarray(self.documents)


def rates_of(cache) -> dict[str, float] | None:
    """{task: rate} where a cache's task is a mixture of seqio's registry, None where it is a task.

    What is not built yet is built here: the cache of a task, or of all tasks of a mixture together, which is quicker than
    one by one.
    """
    if not isinstance(cache, TokenCache):
        return getattr(cache, "rates", None)
    if cache.fingerprint or cache.find():
        return None
    recorded = read(cache)
    if recorded is None or not all(dataclasses.replace(cache, task=task).find() for task in recorded):
        cache.build()
        recorded = read(cache)
    return recorded


def read(cache: TokenCache) -> dict[str, float] | None:
    """The recorded rates, unless the sources or sizes they are of have changed."""
    path = cache.task_folder / RECORD
    if not path.exists():
        return None
    content = json.loads(path.read_text())
    fresh = all(token_cache.source_hash(name) == digest for name, digest in content["modules"].items())
    return content["rates"] if fresh and sizes_are(cache, content["documents"]) else None


def sizes_are(cache: TokenCache, documents: dict[str, int]) -> bool:
    """Whether the tasks' training splits have as many documents as were counted."""
    splits = (dataclasses.replace(cache, task=task, split="train") for task in documents)
    return all(
        (folder := split.find()) and json.loads((folder / token_cache.MANIFEST).read_text())["documents"] == count
        for split, count in zip(splits, documents.values(), strict=True)
    )

"""Rates of mixtures registered with seqio, read without seqio and converted to rates of rows."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from t5x_like.data.cache import token_cache
from t5x_like.data.cache.token_cache import TokenCache
from t5x_like.file_names import check_name

RECORD = "mixture.json"


@dataclasses.dataclass(frozen=True)
class ExampleRates:
    """seqio's rates, which count examples, converted to rates of rows: rate * rows / documents of each task."""

    rates: tuple[float, ...]
    documents: tuple[int, ...]

    def __call__(self, sizes: Sequence[int]) -> np.ndarray:
        return np.asarray(self.rates) * np.asarray(sizes) / np.asarray(self.documents)


def ensure_rates(cache: Any) -> dict[str, float] | None:
    """{task: rate} if the cache's task is a mixture registered with seqio, None if it is a task.

    Builds what is missing: the cache of a task, or of all tasks of a mixture together, which is faster than one by one.
    """
    if not isinstance(cache, TokenCache):
        return getattr(cache, "rates", None)
    if cache.fingerprint or cache.find():
        return None
    rates = read_rates(cache)
    if rates is None or not all(dataclasses.replace(cache, task=task).find() for task in rates):
        cache.build()
        rates = read_rates(cache)
    return rates


def read_rates(cache: TokenCache) -> dict[str, float] | None:
    """The recorded rates; None if there are none, or if the sources or sizes behind them have changed."""
    path = cache.task_folder / RECORD
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text())
        rates = {check_name(task, path): float(rate) for task, rate in content["rates"].items()}
        documents = {check_name(task, path): int(count) for task, count in content["documents"].items()}
        defined = (content["module"], content["arguments"])
        current = all(token_cache.source_hash(name) == digest for name, digest in content["modules"].items())
    except (ValueError, KeyError, TypeError, AttributeError):
        return None  # damaged, or of an older version: it is written again
    module, arguments = cache.definition
    same = current and defined == (module, token_cache.as_json(arguments))
    return rates if same and sizes_match(cache, documents) else None


def sizes_match(cache: TokenCache, documents: dict[str, int]) -> bool:
    """Whether the tasks' training splits have the recorded numbers of documents."""
    splits = (dataclasses.replace(cache, task=task, split="train") for task in documents)
    return all(
        (folder := split.find()) and json.loads((folder / token_cache.MANIFEST).read_text())["documents"] == count
        for split, count in zip(splits, documents.values(), strict=True)
    )

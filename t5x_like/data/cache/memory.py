"""Token caches in memory, for rows of a task that is not written to disk."""

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from t5x_like.types import Vocabulary


@dataclasses.dataclass(frozen=True)
class MemoryCache:
    """Has the interface of `TokenCache`; `ids` are the tokens of every document, by feature, `inputs` those of the manifest."""

    task: str
    split: str
    vocabulary: Vocabulary
    ids: Mapping[str, Sequence[np.ndarray]]
    inputs: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def from_examples(
        cls,
        task: str,
        split: str,
        vocabulary: Vocabulary,
        features: Sequence[str],
        examples: Iterable[Mapping],
        inputs: Mapping[str, Any] | None = None,
    ) -> "MemoryCache":
        """The cache of tokenized examples, {feature: ids}; other fields are ignored."""
        examples = list(examples)
        ids = {name: [np.asarray(x[name]) for x in examples] for name in features}
        return cls(task, split, vocabulary, ids, inputs or {})

    @property
    def features(self) -> list[str]:
        """The names of the features."""
        return list(self.ids)

    @property
    def manifest(self) -> dict:
        """The entries of a manifest that rows read."""
        return {"fingerprint": f"memory/{len(self)}", "documents": len(self), "inputs": self.inputs}

    def __len__(self) -> int:
        """The number of documents."""
        return len(next(iter(self.ids.values())))

    @functools.cached_property
    def _arrays(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """(tokens, offsets) by feature."""
        dtype = np.uint16 if self.vocabulary.vocab_size <= 2**16 else np.uint32
        tokens = {name: np.concatenate([np.zeros(0, dtype), *ids]).astype(dtype) for name, ids in self.ids.items()}
        offsets = {name: np.cumsum([0, *map(len, ids)], dtype=np.int64) for name, ids in self.ids.items()}
        return {name: (tokens[name], offsets[name]) for name in self.ids}

    def tokens(self, feature: str) -> np.ndarray:
        """All ids of a feature, concatenated."""
        return self._arrays[feature][0]

    def offsets(self, feature: str) -> np.ndarray:
        """int64[documents + 1]: document i is tokens[offsets[i] : offsets[i + 1]]."""
        return self._arrays[feature][1]

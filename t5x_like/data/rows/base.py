"""The base of all kinds of rows: each class turns a token cache into rows, and `fetch` makes any of them at any time.

`rows.fetch(index_n, epoch_n, seed)` returns rows `index_n` of epochs `epoch_n` as {feature: [n, ...]}, with the names of
`t5x_like.batches`; `len(rows)` is the number of rows per epoch. Randomness depends on (seed, epoch, row) alone.
"""

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np

from t5x_like.batches import Feature
from t5x_like.data.cache.token_cache import TokenCache
from t5x_like.types import Vocabulary


@dataclasses.dataclass(frozen=True)
class Rows:
    """Rows made from a token cache; see `types.Rows` for the protocol. Subclasses define `lengths`, `fetch` and `used_tokens`."""

    cache: TokenCache

    def __len__(self) -> int:
        """The number of rows per epoch."""
        raise NotImplementedError

    def fetch(self, index_n: np.ndarray, epoch_n: np.ndarray, seed: int) -> dict[str, np.ndarray]:
        """Rows `index_n` of epochs `epoch_n`: {feature: [n, ...]}."""
        raise NotImplementedError

    @property
    def lengths(self) -> Mapping[str, int]:
        """Tokens per row by side."""
        raise NotImplementedError

    @property
    def caches(self) -> tuple[TokenCache, ...]:
        """All caches that the rows are made from."""
        return (self.cache,)

    @property
    def vocabulary(self) -> Vocabulary:
        return self.cache.vocabulary

    @property
    def chat_template(self) -> str | None:
        """The template that rendered the chats of the rows, "" for plain lines; None if they have no chats."""
        return None

    @property
    def fingerprint(self) -> str:
        """Class, data and parameters: rows with equal fingerprints are equal."""
        options = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "cache"}
        text = ", ".join(f"{name}={value!r}" for name, value in options.items())
        source = f"{self.cache.task}/{self.cache.split}/{self.cache.manifest['fingerprint']}"
        return f"{type(self).__name__}({source}, {text})"

    @property
    def group(self) -> int:
        """The number of neighbouring rows that belong together and are never separated."""
        return 1

    @property
    def extra_features(self) -> Mapping[str, Feature]:
        """The features of a batch besides the common ones; see `t5x_like.batches`."""
        return {}

    @property
    def task_features(self) -> tuple[str, ...]:
        """The features of the task that the rows are made from."""
        return ("targets",)

    @property
    def read_features(self) -> tuple[str, ...]:
        """All features of the task that the rows read: `task_features`, and masks."""
        return self.task_features

    @property
    def used_tokens(self) -> int:
        """Tokens of the cache in the rows of an epoch."""
        raise NotImplementedError

    @property
    def truncated_tokens(self) -> dict[str, int]:
        """Tokens cut off examples longer than a row, by feature of the task."""
        return dict.fromkeys(self.task_features, 0)

    @property
    def unused_tokens(self) -> int:
        """Tokens in no row, because the text they belong to does not fill one."""
        total = sum(len(self.cache.tokens(name)) for name in self.task_features)
        return total - self.used_tokens - sum(self.truncated_tokens.values())

    @functools.cached_property
    def fill(self) -> dict[str, float]:
        """Share of positions that are not padding, by side; measured on 256 rows (or groups) spread over epoch 0."""
        group_n = np.unique(np.linspace(0, len(self) // self.group - 1, 256).astype(np.int64))
        index_n = (group_n[:, None] * self.group + np.arange(self.group)).reshape(-1)
        batch = self.fetch(index_n, np.zeros_like(index_n), 0)
        return {side: float((batch[f"{side}_segment_ids"] > 0).mean()) for side in self.lengths}

    @property
    def report(self) -> dict[str, int | float]:
        """The usage of the cache's tokens: `used`, `left_out` and `truncated_FEATURE` add up to `tokens`."""
        counts = {
            "rows": len(self),
            "tokens": sum(len(self.cache.tokens(name)) for name in self.task_features),
            "used": self.used_tokens,
            "left_out": self.unused_tokens,
        }
        cut = {f"truncated_{name}": count for name, count in self.truncated_tokens.items()}
        return {**counts, **cut, **{f"fill_{side}": share for side, share in self.fill.items()}}


def check_length(name: str, length: int) -> None:
    """Raises ValueError for a row length below 2."""
    if length < 2:
        raise ValueError(f"{name}={length} is too short for a row; use 2 or more")


@dataclasses.dataclass(frozen=True)
class TextRows(Rows):
    """Rows made from texts of `text_length` tokens, cut from all documents joined; a shorter remainder is left out."""

    @property
    def text_length(self) -> int:
        """Tokens of text per row, before noise."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.cache.tokens("targets")) // self.text_length

    @property
    def used_tokens(self) -> int:
        return len(self) * self.text_length


@dataclasses.dataclass(frozen=True)
class FullTextRows(TextRows):
    """Rows whose text is as long as the row."""

    length: int

    def __post_init__(self) -> None:
        check_length("length", self.length)

    @property
    def text_length(self) -> int:
        return self.length

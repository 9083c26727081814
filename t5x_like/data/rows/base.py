"""What a row of a batch is: each class turns a token cache into rows, and `fetch` makes any of them at any time.

`rows.fetch(index_n, epoch_n, seed) -> {name: [n, L]}` gives rows `index_n` of epochs `epoch_n`, by the names of
`t5x_like.batches`; `len(rows)` are in an epoch. Randomness depends on (seed, epoch, row) alone.
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
    """What all kinds of rows share: the cache they are made from."""

    cache: TokenCache

    @property
    def caches(self) -> tuple[TokenCache, ...]:
        """All caches that rows are made from."""
        return (self.cache,)

    @property
    def vocabulary(self) -> Vocabulary:
        return self.cache.vocabulary

    @property
    def fingerprint(self) -> str:
        """Class, parameters and data: rows with the same one are the same."""
        options = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "cache"}
        shown = ", ".join(f"{name}={value!r}" for name, value in options.items())
        source = f"{self.cache.task}/{self.cache.split}/{self.cache.manifest['fingerprint']}"
        return f"{type(self).__name__}({source}, {shown})"

    @property
    def group(self) -> int:
        """The number of neighbouring rows that belong together and are never separated."""
        return 1

    @property
    def extra_features(self) -> Mapping[str, Feature]:
        """The features of a batch besides the common ones; see `t5x_like.batches`."""
        return {}

    @property
    def features(self) -> tuple[str, ...]:
        """The features of the task that rows are made from."""
        return ("targets",)

    @property
    def used(self) -> int:
        """Tokens of the cache that the rows of an epoch are made from."""
        raise NotImplementedError

    @property
    def truncated(self) -> dict[str, int]:
        """Tokens cut off examples that are longer than a row, by feature."""
        return dict.fromkeys(self.features, 0)

    @property
    def left_out(self) -> int:
        """Tokens in no row, for what they belong to fills none."""
        return sum(len(self.cache.tokens(name)) for name in self.features) - self.used - sum(self.truncated.values())

    @functools.cached_property
    def fill(self) -> dict[str, float]:
        """Share of the positions of a row that are no padding, by side: of 256 rows spread over epoch 0."""
        group_n = np.unique(np.linspace(0, len(self) // self.group - 1, 256).astype(np.int64))
        index_n = (group_n[:, None] * self.group + np.arange(self.group)).reshape(-1)
        batch = self.fetch(index_n, np.zeros_like(index_n), 0)
        return {side: float((batch[f"{side}_segment_ids"] > 0).mean()) for side in self.lengths}

    @property
    def report(self) -> dict[str, int | float]:
        """What becomes of the cache: tokens are those used, left out and truncated; see the properties of these names."""
        tokens = {
            "tokens": sum(len(self.cache.tokens(name)) for name in self.features),
            "used": self.used,
            "left_out": self.left_out,
        }
        cut = {f"truncated_{name}": count for name, count in self.truncated.items()}
        return {"rows": len(self), **tokens, **cut, **{f"fill_{side}": share for side, share in self.fill.items()}}


def check_length(name: str, length: int) -> None:
    if length < 2:
        raise ValueError(f"{name}={length} is too short for a row; use 2 or more")


@dataclasses.dataclass(frozen=True)
class Texts(Rows):
    """Rows made from texts of `text_length` tokens, cut from all documents joined; a tail shorter than that is left out."""

    @property
    def text_length(self) -> int:
        """Tokens of text per row, before noise."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.cache.tokens("targets")) // self.text_length

    @property
    def used(self) -> int:
        return len(self) * self.text_length


@dataclasses.dataclass(frozen=True)
class Joined(Texts):
    """Texts as long as the row."""

    length: int

    def __post_init__(self):
        check_length("length", self.length)

    @property
    def text_length(self) -> int:
        return self.length

"""Several kinds of rows mixed at given rates while they are streamed: another rate re-tokenizes nothing.

A mixture is rows like any others. An epoch of it is a window in which every component has its share, to the row; which of
its rows come next in a component is a function of the window's number, so the stream stays a function of the step.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from t5x_like.data.stream import permuted


@dataclasses.dataclass(frozen=True)
class Proportional:
    """Rates proportional to min(rows, cap) ^ (1 / temperature) (T5, Raffel et al. 2020, section 3.5.2)."""

    cap: int | None = None
    temperature: float = 1.0

    def __call__(self, sizes: Sequence[int]) -> np.ndarray:
        if self.temperature <= 0 or (self.cap is not None and self.cap < 1):
            raise ValueError(f"temperature={self.temperature} and cap={self.cap} must be positive")
        limited = np.minimum(sizes, self.cap or max(sizes)).astype(np.float64)
        return limited ** (1.0 / self.temperature)


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Rows of several kinds, drawn at `rates`: numbers, one a component, or a function of their sizes.

    Every component runs through its own epochs, shuffled anew in each. Shares are exact in every `window` rows.

    Raises:
      ValueError: components that do not go into one batch, rates that are no shares, a window too short for the smallest.
    """

    rows: Sequence[Any]
    rates: Sequence[float] | Callable[[Sequence[int]], np.ndarray] = Proportional()
    window: int = 2**13

    def __post_init__(self):
        if not self.rows:
            raise ValueError("a mixture needs at least one kind of rows")
        for name in ("lengths", "vocabulary"):
            values = [shown(getattr(rows, name)) for rows in self.rows]
            if len(set(values)) > 1:
                raise ValueError(
                    f"the rows of a mixture differ in their {name}: {', '.join(values)}; make them the same"
                )
        if not self.quotas.all():
            raise ValueError(
                f"window={self.window} gives the components {self.quotas.tolist()} rows; none should have 0: "
                "lengthen the window, or leave the component out"
            )

    @functools.cached_property
    def quotas(self) -> np.ndarray:
        """Rows of each component in a window: the largest remainders are rounded up."""
        sizes = [len(rows) for rows in self.rows]
        rates = np.asarray(self.rates(sizes) if callable(self.rates) else self.rates, np.float64)
        if rates.shape != (len(self.rows),) or not (rates > 0).all() or not np.isfinite(rates).all():
            raise ValueError(
                f"rates={rates.tolist()} are not {len(self.rows)} positive numbers, one for each kind of rows"
            )
        exact = rates / rates.sum() * self.window
        whole = np.floor(exact).astype(np.int64)
        whole[np.argsort(whole - exact, kind="stable")[: self.window - whole.sum()]] += 1
        return whole

    @property
    def vocabulary(self):
        return self.rows[0].vocabulary

    @property
    def lengths(self) -> dict[str, int]:
        return self.rows[0].lengths

    @property
    def fingerprint(self) -> str:
        """The components and their shares: mixtures with the same one are the same."""
        parts = zip(self.quotas.tolist(), (rows.fingerprint for rows in self.rows), strict=True)
        return f"Mixture({', '.join(f'{quota} {part}' for quota, part in parts)})"

    def __len__(self) -> int:
        return self.window

    def fetch(self, index_n: np.ndarray, epoch_n: np.ndarray, seed: int) -> dict[str, np.ndarray]:
        """Rows `index_n` of windows `epoch_n`."""
        ends = np.cumsum(self.quotas)
        component_n = np.searchsorted(ends, index_n, side="right")
        batch: dict[str, np.ndarray] = {}
        for number in np.unique(component_n):
            rows, chosen = self.rows[number], np.flatnonzero(component_n == number)
            # How many rows of this component came before, since the beginning of the run.
            before = ends[number] - self.quotas[number]
            count_m = epoch_n[chosen] * self.quotas[number] + index_n[chosen] - before
            own_epoch_m, own_index_m = np.divmod(count_m, len(rows))
            part = rows.fetch(permuted(own_index_m, len(rows), seed, own_epoch_m), own_epoch_m, seed)
            for name, x in part.items():
                whole = batch.setdefault(name, np.zeros((len(index_n), *x.shape[1:]), x.dtype))
                whole[chosen] = x
        return batch


def shown(value: Any) -> str:
    return getattr(value, "fingerprint", None) or str(value)

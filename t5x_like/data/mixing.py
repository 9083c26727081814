"""Several kinds of rows mixed at given rates while they are streamed: another rate re-tokenizes nothing.

A mixture is rows like any others. An epoch of it is a window in which every component has its share, to the row; which of
its rows come next in a component is a function of the window's number, so the stream stays a function of the step. Rates
are shares of rows, and rows are of one length: so they are shares of the tokens that are trained on, not of documents.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from t5x_like import batches
from t5x_like.batches import Feature
from t5x_like.data import seqio_mixtures
from t5x_like.data.cache.token_cache import TokenCache
from t5x_like.data.stream import check_whole_groups, permuted_groups
from t5x_like.types import Rows


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

    Every component runs through its own epochs, shuffled anew in each. Shares are exact in every `window` rows. Batches say
    by `task_one_hot` [B, T] which component a row is of.

    Raises:
      ValueError: components that do not go into one batch, rates that are no shares, a window too short for the smallest.
    """

    rows: Sequence[Any]
    rates: Sequence[float] | Callable[[Sequence[int]], np.ndarray] = Proportional()
    window: int = 2**13

    def __post_init__(self):
        if not self.rows:
            raise ValueError("a mixture needs at least one kind of rows")
        for name in ("lengths", "vocabulary", "group"):
            values = [shown(getattr(rows, name)) for rows in self.rows]
            if len(set(values)) > 1:
                raise ValueError(
                    f"the rows of a mixture differ in their {name}: {', '.join(values)}; make them the same"
                )
        if self.window % self.group:
            raise ValueError(
                f"window={self.window} is not a multiple of the groups of {self.group} rows; "
                f"use {self.window // self.group * self.group or self.group}"
            )
        for rows in self.rows:
            check_whole_groups(rows)
        merge_features(self.rows)
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
        exact = rates / rates.sum() * (self.window // self.group)
        whole = np.floor(exact).astype(np.int64)
        whole[np.argsort(whole - exact, kind="stable")[: self.window // self.group - whole.sum()]] += 1
        return whole * self.group

    @functools.cached_property
    def parts(self) -> dict[str, Any]:
        """The components by the names of their tasks; the second of a name is `name_2`, and so on."""
        parts: dict[str, Any] = {}
        for rows in self.rows:
            name = "+".join(dict.fromkeys(cache.task for cache in rows.caches))
            same = sum(other == name or other.startswith(f"{name}_") for other in parts)
            parts[f"{name}_{same + 1}" if name in parts else name] = rows
        return parts

    @property
    def caches(self) -> tuple[TokenCache, ...]:
        return tuple(cache for rows in self.rows for cache in rows.caches)

    @property
    def vocabulary(self):
        return self.rows[0].vocabulary

    @property
    def lengths(self) -> dict[str, int]:
        return self.rows[0].lengths

    @property
    def group(self) -> int:
        """The number of neighbouring rows that belong together, the same in all components."""
        return self.rows[0].group

    @functools.cached_property
    def extra_features(self) -> dict[str, Feature]:
        """Those of all components, and `task_one_hot`."""
        return merge_features(self.rows) | {"task_one_hot": Feature((len(self.rows),), "float32")}

    @functools.cached_property
    def batch_features(self) -> dict[str, Feature]:
        """All features of a batch; a component without one of them has its `pad` there."""
        components = [batches.features(rows) for rows in self.rows]
        return {name: x for one in components for name, x in one.items()} | self.extra_features

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
        batch = {name: np.empty((len(index_n), *x.shape), x.dtype) for name, x in self.batch_features.items()}
        batch["task_one_hot"][:] = component_n[:, None] == np.arange(len(self.rows))
        for number in np.unique(component_n):
            rows, chosen = self.rows[number], np.flatnonzero(component_n == number)
            # How many rows of this component came before, since the beginning of the run.
            before = ends[number] - self.quotas[number]
            count_m = epoch_n[chosen] * self.quotas[number] + index_n[chosen] - before
            own_epoch_m, own_index_m = np.divmod(count_m, len(rows))
            shuffled_m = permuted_groups(own_index_m, len(rows), self.group, seed, own_epoch_m)
            part = rows.fetch(shuffled_m, own_epoch_m, seed)
            for name, feature in self.batch_features.items():
                if name != "task_one_hot":
                    batch[name][chosen] = part.get(name, feature.pad)
        return batch


def merge_features(components: Sequence[Rows]) -> dict[str, Feature]:
    """The extra features of all components.

    Raises:
      ValueError: two components declare one name differently.
    """
    merged: dict[str, Feature] = {}
    for rows in components:
        for name, feature in rows.extra_features.items():
            if name != "task_one_hot" and merged.setdefault(name, feature) != feature:
                raise ValueError(
                    f"the rows of a mixture declare {name!r} differently: {merged[name]} and {feature} of "
                    f"{type(rows).__name__}; make them the same, or rename one"
                )
    return merged


def of_tasks(
    rows: Callable[..., Any],
    cache: Callable[..., TokenCache],
    tasks: str | Sequence[str] | Mapping[str, float],
    rates: Callable[[Sequence[int]], np.ndarray] = Proportional(),
    window: int = 2**13,
) -> Any:
    """Rows of one task, or a mixture of several: `rows(cache=cache(task=name))` of each.

    `tasks` is a name, several names, which are mixed at `rates` of their sizes, or {name: rate}; see `Mixture`. The name of a
    mixture of seqio's registry is mixed as it says there: rates of examples become the rates of rows that amount to them.

    Raises:
      ValueError: no task.
    """
    if not tasks:
        raise ValueError(f"tasks={tasks!r} names no task; give one name, several, or {{name: rate}}")
    if isinstance(tasks, str):
        one = cache(task=tasks)
        registered = seqio_mixtures.rates_of(one)
        if registered is None:
            return rows(cache=one)
        made = [rows(cache=cache(task=name)) for name in registered]
        documents = tuple(part.caches[0].manifest["documents"] for part in made)
        return Mixture(made, seqio_mixtures.ByExamples(tuple(registered.values()), documents), window)
    given = tuple(tasks.values()) if isinstance(tasks, Mapping) else rates
    return Mixture([rows(cache=cache(task=name)) for name in tasks], given, window)


def parts(rows: Any) -> dict[str, Any]:
    """The components of a mixture by name; other rows as they are, under ""."""
    return rows.parts if isinstance(rows, Mixture) else {"": rows}


def reports(rows: Any) -> dict[str, dict[str, int | float]]:
    """What becomes of the caches' tokens, by task: see `Rows.report`."""
    return {task: part.report for task, part in parts(rows).items() if hasattr(part, "report")}


def shown(value: Any) -> str:
    return getattr(value, "fingerprint", None) or str(value)

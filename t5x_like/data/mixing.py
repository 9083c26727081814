"""Several kinds of rows mixed at given rates while they are streamed: changing a rate re-tokenizes nothing.

A mixture is itself rows. One epoch of it is a window in which every component has its exact share. The component's rows in
a window are a function of the window's number, so that the stream stays a function of the step. Rates are shares of rows of
one length, that is of trained tokens, not of documents.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from t5x_like import batches
from t5x_like.batches import Feature
from t5x_like.data import seqio_mixtures
from t5x_like.data.cache.streaming_steps import check_noise
from t5x_like.data.cache.token_cache import TokenCache
from t5x_like.data.stream import check_whole_groups, permute_groups
from t5x_like.types import Rows, Vocabulary

Rates = Callable[[Sequence[int]], np.ndarray]  # numbers of rows of the components -> their rates


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
    """Rows of several components, drawn at `rates`: one number per component, or a function of their sizes.

    Every component has its own epochs, each shuffled differently. Shares are exact in every `window` rows. The feature
    `task_one_hot` [B, T] tells the component of each row. A component without a feature of another one has its `pad` there.

    Raises:
      ValueError: components that do not fit into one batch, invalid rates, or a window too short for the smallest share.
    """

    rows: Sequence[Any]
    rates: Sequence[float] | Rates = Proportional()
    window: int = 2**13

    def __post_init__(self) -> None:
        if not self.rows:
            raise ValueError("a mixture needs at least one component; give rows")
        for name in ("lengths", "vocabulary", "group"):
            values = [describe(getattr(rows, name)) for rows in self.rows]
            if len(set(values)) > 1:
                raise ValueError(f"the components of a mixture differ in {name}: {', '.join(values)}; make them equal")
        if len(templates := {template_of(rows) for rows in self.rows} - {None}) > 1:
            raise ValueError(
                f"the components of a mixture have chats by {len(templates)} templates, so that the model would have no one "
                "template; render all by one (TEMPLATE of tasks/chats.gin)"
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
                f"window={self.window} gives the components {self.quotas.tolist()} rows; none may have 0: "
                "lengthen the window, or remove the component"
            )

    @functools.cached_property
    def quotas(self) -> np.ndarray:
        """Rows of each component in a window, in whole groups; the largest remainders are rounded up."""
        sizes = [len(rows) for rows in self.rows]
        rates = np.asarray(self.rates(sizes) if callable(self.rates) else self.rates, np.float64)
        if rates.shape != (len(self.rows),) or not (rates > 0).all() or not np.isfinite(rates).all():
            raise ValueError(f"rates={rates.tolist()} are not {len(self.rows)} positive numbers, one per component")
        groups = self.window // self.group
        exact = rates / rates.sum() * groups
        quotas = np.floor(exact).astype(np.int64)
        quotas[np.argsort(quotas - exact, kind="stable")[: groups - quotas.sum()]] += 1
        return quotas * self.group

    @functools.cached_property
    def components(self) -> dict[str, Any]:
        """The components by the names of their tasks; a second one of the same name is `name_2`, and so on."""
        components: dict[str, Any] = {}
        for rows in self.rows:
            name = "+".join(dict.fromkeys(cache.task for cache in rows.caches))
            same = sum(other == name or other.startswith(f"{name}_") for other in components)
            components[f"{name}_{same + 1}" if name in components else name] = rows
        return components

    @property
    def caches(self) -> tuple[TokenCache, ...]:
        return tuple(cache for rows in self.rows for cache in rows.caches)

    @property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary of all components, with the chat template of those that have chats."""
        with_chats = [rows for rows in self.rows if template_of(rows) is not None]
        return (with_chats or self.rows)[0].vocabulary

    @property
    def chat_template(self) -> str | None:
        """That of the components with chats; see `Rows.chat_template`."""
        return next((template for rows in self.rows if (template := template_of(rows)) is not None), None)

    @property
    def lengths(self) -> Mapping[str, int]:
        return self.rows[0].lengths

    @property
    def group(self) -> int:
        """The number of neighbouring rows that belong together, equal in all components."""
        return self.rows[0].group

    @functools.cached_property
    def extra_features(self) -> dict[str, Feature]:
        """Those of all components, and `task_one_hot`."""
        return merge_features(self.rows) | {"task_one_hot": Feature((len(self.rows),), "float32")}

    @functools.cached_property
    def batch_features(self) -> dict[str, Feature]:
        """All features of a batch."""
        components = [batches.features(rows) for rows in self.rows]
        return {name: x for component in components for name, x in component.items()} | self.extra_features

    @property
    def fingerprint(self) -> str:
        """The components and their quotas: mixtures with equal fingerprints are equal."""
        parts = zip(self.quotas.tolist(), (rows.fingerprint for rows in self.rows), strict=True)
        return f"Mixture({', '.join(f'{quota} {part}' for quota, part in parts)})"

    def __len__(self) -> int:
        return self.window

    def fetch(self, index_n: np.ndarray, epoch_n: np.ndarray, seed: int) -> dict[str, np.ndarray]:
        """Rows `index_n` of windows `epoch_n`: {feature: [n, ...]}."""
        ends = np.cumsum(self.quotas)
        component_n = np.searchsorted(ends, index_n, side="right")
        batch = {name: np.empty((len(index_n), *x.shape), x.dtype) for name, x in self.batch_features.items()}
        batch["task_one_hot"][:] = component_n[:, None] == np.arange(len(self.rows))
        for number in np.unique(component_n):
            rows, chosen = self.rows[number], np.flatnonzero(component_n == number)
            # The number of this component's rows before each one, since the beginning of the run.
            before = ends[number] - self.quotas[number]
            count_m = epoch_n[chosen] * self.quotas[number] + index_n[chosen] - before
            own_epoch_m, own_index_m = np.divmod(count_m, len(rows))
            shuffled_m = permute_groups(own_index_m, len(rows), self.group, seed, own_epoch_m)
            part = rows.fetch(shuffled_m, own_epoch_m, seed)
            for name, feature in self.batch_features.items():
                if name != "task_one_hot":
                    batch[name][chosen] = part.get(name, feature.pad)
        return batch


def merge_features(components: Sequence[Rows]) -> dict[str, Feature]:
    """The extra features of all components, without `task_one_hot` of mixtures among them.

    Raises:
      ValueError: two components declare the same name differently.
    """
    merged: dict[str, Feature] = {}
    for rows in components:
        for name, feature in rows.extra_features.items():
            if name != "task_one_hot" and merged.setdefault(name, feature) != feature:
                raise ValueError(
                    f"the components of a mixture declare {name!r} differently: {merged[name]}, and {feature} of "
                    f"{type(rows).__name__}; make them equal, or rename one"
                )
    return merged


def mix_tasks(
    rows: Callable[..., Any],
    cache: Callable[..., Any],
    tasks: str | Sequence[str] | Mapping[str, float],
    rates: Rates = Proportional(),
    window: int = 2**13,
) -> Any:
    """Rows of one task, or a mixture of several: `rows(cache=cache(task=name))` of each.

    `tasks` is a name, a sequence of names that are mixed at `rates` of their sizes, or {name: rate}; see `Mixture`. A
    mixture registered with seqio keeps its rates: rates of examples become the equivalent rates of rows.

    Raises:
      ValueError: `tasks` is empty, or the rows do not make the noise that a task declares.
    """
    if not tasks:
        raise ValueError(f"tasks={tasks!r} names no task; give one name, several, or {{name: rate}}")
    if isinstance(tasks, str):
        own = cache(task=tasks)
        registered = seqio_mixtures.ensure_rates(own)
        if registered is None:
            return make_rows(rows, own)
        components = [make_rows(rows, cache(task=name)) for name in registered]
        documents = tuple(part.caches[0].manifest["documents"] for part in components)
        return Mixture(components, seqio_mixtures.ExampleRates(tuple(registered.values()), documents), window)
    shares = tuple(tasks.values()) if isinstance(tasks, Mapping) else rates
    return Mixture([make_rows(rows, cache(task=name)) for name in tasks], shares, window)


def make_rows(rows: Callable[..., Any], cache: Any) -> Any:
    """Rows of a cache.

    Raises:
      ValueError: they do not make the noise that the task declares.
    """
    made = rows(cache=cache)
    check_noise(made)
    return made


def components(rows: Any) -> dict[str, Any]:
    """The components of a mixture by name; other rows under the name ""."""
    return rows.components if isinstance(rows, Mixture) else {"": rows}


def reports(rows: Any) -> dict[str, dict[str, int | float]]:
    """The usage of the caches' tokens by task; see `Rows.report`."""
    return {task: part.report for task, part in components(rows).items() if hasattr(part, "report")}


def template_of(rows: Any) -> str | None:
    """The chat template of some rows; None if they have no chats."""
    return getattr(rows, "chat_template", None)


def describe(value: Any) -> str:
    """The fingerprint of a value that has one, or its text."""
    return getattr(value, "fingerprint", None) or str(value)

"""Tasks read as they are, without a token cache: for a quick look at what a configuration makes of its data."""

import dataclasses
import itertools
from collections.abc import Callable

import seqio

from t5x_like.data.cache.memory import MemoryCache
from t5x_like.data.cache.token_cache import TokenCache
from t5x_like.tasks.caching import seqio_mixtures, task_inputs
from t5x_like.tasks.caching.documents import Documents


@dataclasses.dataclass(frozen=True)
class Mixed:
    """A mixture of seqio's registry: numbers as they are, rates by size as 1."""

    rates: dict[str, float]


def cache(of: Callable[..., TokenCache], task: str, documents: int = 256) -> MemoryCache | Mixed:
    """The first documents of what the token cache `of(task=task)` would hold, tokenized now and kept in memory.

    Raises:
      ValueError: no such task or split, or no example.
    """
    wanted = of(task=task)
    task_inputs.import_tasks(task, wanted.module, dict(wanted.arguments))
    if seqio_mixtures.is_mixture(task):
        mixture = seqio.MixtureRegistry.get(task)
        return Mixed(
            {one.name: 1.0 if seqio_mixtures.by_size(mixture) else mixture.get_rate(one) for one in mixture.tasks}
        )
    found = task_inputs.find_task(task, wanted.module)
    if wanted.split not in found.splits:
        raise ValueError(f"task {task!r} has no split {wanted.split!r}; it has {', '.join(found.splits)}")
    task_inputs.check_vocabularies(found)
    read = Documents(found, wanted.split, everything_in_tf=True)
    shards = (read.prepared(number)[0].as_numpy_iterator() for number in range(len(read.shards)))
    examples = itertools.islice(itertools.chain.from_iterable(shards), documents)
    made = MemoryCache.of(
        wanted.task, wanted.split, task_inputs.vocabulary_of(found), list(found.output_features), examples
    )
    if len(made) == 0:
        raise ValueError(f"task {task!r} has no example in split {wanted.split!r}")
    return made

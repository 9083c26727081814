"""Tokenizes the first documents of a task in memory, without a token cache, to inspect the data of a configuration."""

import dataclasses
import itertools
from collections.abc import Callable

import seqio

from t5x_like.data.cache.memory import MemoryCache
from t5x_like.data.cache.token_cache import TokenCache
from t5x_like.tasks.caching import seqio_mixtures, task_inputs
from t5x_like.tasks.caching.documents import Documents


@dataclasses.dataclass(frozen=True)
class MixtureRates:
    """The rates of a seqio mixture; rates that depend on the size of tasks are 1."""

    rates: dict[str, float]


def read_task(token_cache: Callable[..., TokenCache], task: str, documents: int = 256) -> MemoryCache | MixtureRates:
    """Tokenizes the first documents that the cache `token_cache(task=task)` would hold.

    Raises:
      ValueError: no such task or split, or no example.
    """
    cache = token_cache(task=task)
    module, arguments = cache.definition
    task_inputs.import_tasks(task, module, dict(arguments))
    if seqio_mixtures.is_mixture(task):
        mixture = seqio.MixtureRegistry.get(task)
        by_size = seqio_mixtures.has_rates_by_size(mixture)
        return MixtureRates({part.name: 1.0 if by_size else mixture.get_rate(part) for part in mixture.tasks})
    seqio_task = task_inputs.find_task(task, module)
    task_inputs.check_task(seqio_task, cache.split)
    source = Documents(seqio_task, cache.split, everything_in_tf=True)
    shards = (source.prepare(number)[0].as_numpy_iterator() for number in range(len(source.shards)))
    examples = itertools.islice(itertools.chain.from_iterable(shards), documents)
    vocabulary = task_inputs.vocabulary_of(seqio_task)
    inputs = task_inputs.cache_inputs(seqio_task, module, dict(arguments))
    memory = MemoryCache.from_examples(cache.task, cache.split, vocabulary, list(source.features), examples, inputs)
    if len(memory) == 0:
        raise ValueError(f"task {task!r} has no example in split {cache.split!r}")
    return memory

"""Writes the rates of mixtures in seqio's registry, so that training reads them without seqio."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import seqio

from t5x_like.data import seqio_mixtures
from t5x_like.data.cache import token_cache
from t5x_like.tasks.caching.module_sources import with_imports


def is_mixture(name: str) -> bool:
    """Whether a name is registered as a mixture; its module has been imported."""
    return name in seqio.MixtureRegistry.names()


def tasks_of(name: str) -> list[str]:
    """The tasks of a mixture, those of nested mixtures included."""
    return [task.name for task in seqio.MixtureRegistry.get(name).tasks]


def write_rates(
    name: str, module: str, arguments: dict | None, folder: Path, count_documents: Callable[[str], int]
) -> Path:
    """Writes the rates of a mixture into `folder`; rates by size are computed from `count_documents(task)`.

    Raises:
      ValueError: a rate cannot be computed, or is not positive.
    """
    mixture = seqio.MixtureRegistry.get(name)
    counts = {task.name: count_documents(task.name) for task in mixture.tasks} if has_rates_by_size(mixture) else {}
    for task in mixture.tasks if counts else ():
        # seqio's rates by size read the task's count, which our tasks lack: supply that of the cache.
        task.num_input_examples = lambda split, count=counts[task.name]: count
    try:
        rates = {task.name: float(mixture.get_rate(task)) for task in mixture.tasks}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"mixture {name!r}: a rate cannot be computed ({error}); use numbers or seqio.mixing_rate_num_examples"
        ) from error
    if wrong := {task: rate for task, rate in rates.items() if not rate > 0}:
        raise ValueError(f"mixture {name!r} has the rates {wrong}; they must be positive, or leave these tasks out")
    path = folder / seqio_mixtures.RECORD
    modules = {source: token_cache.source_hash(source) for source in sorted(with_imports([module]))}
    content = {"module": module, "arguments": arguments or {}, "rates": rates, "documents": counts, "modules": modules}
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps(content, indent=1) + "\n")
    partial.replace(path)
    return path


def has_rates_by_size(mixture: seqio.Mixture) -> bool:
    """Whether a rate of a mixture, or of a nested one, is a function of the task."""
    functions = any(callable(rate) for rate in mixture.rate_per_task_name.values())
    return functions or any(has_rates_by_size(nested) for nested in mixture._sub_mixtures)

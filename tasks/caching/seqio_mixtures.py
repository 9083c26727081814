"""Mixtures of seqio's registry as rates by task, so that training reads them without seqio."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import seqio

from t5x_like.data import seqio_mixtures
from t5x_like.data.cache import token_cache
from t5x_like.tasks.caching.module_sources import package_of


def is_mixture(name: str) -> bool:
    """Whether a name is registered as a mixture; its module has been imported."""
    return name in seqio.MixtureRegistry.names()


def tasks_of(name: str) -> list[str]:
    """The tasks of a mixture and of the mixtures in it."""
    return [task.name for task in seqio.MixtureRegistry.get(name).tasks]


def write(name: str, module: str, folder: Path, documents: Callable[[str], int]) -> Path:
    """Writes the rates of a mixture below `folder`; `documents(task)` counts what a rate by size is worked out from.

    Raises:
      ValueError: a rate that cannot be worked out, or is not positive.
    """
    mixture = seqio.MixtureRegistry.get(name)
    counted = {task.name: documents(task.name) for task in mixture.tasks} if by_size(mixture) else {}
    for task in mixture.tasks if counted else ():
        # seqio's rates by size ask the task, which has no count of its own: what it reads is counted in our cache.
        task.num_input_examples = lambda split, count=counted[task.name]: count
    try:
        rates = {task.name: float(mixture.get_rate(task)) for task in mixture.tasks}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"mixture {name!r}: a rate cannot be worked out ({error}); use numbers or seqio.mixing_rate_num_examples"
        ) from error
    if wrong := {task: rate for task, rate in rates.items() if not rate > 0}:
        raise ValueError(f"mixture {name!r} has the rates {wrong}; they must be positive, or the tasks left out")
    path = folder / seqio_mixtures.RECORD
    content = {"rates": rates, "documents": counted, "modules": sources_of(module)}
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps(content, indent=1) + "\n")
    partial.replace(path)
    return path


def by_size(mixture: seqio.Mixture) -> bool:
    """Whether a rate of a mixture, or of one in it, is a function of the task."""
    functions = any(callable(rate) for rate in mixture.rate_per_task_name.values())
    return functions or any(by_size(inner) for inner in mixture._sub_mixtures)


def sources_of(module: str) -> dict[str, str | None]:
    """Hashes of the loaded modules of the package that registers a mixture."""
    package = package_of(module)
    names = sorted(name for name in sys.modules if name == package or name.startswith(f"{package}."))
    return {name: token_cache.source_hash(name) for name in {*names, module}}

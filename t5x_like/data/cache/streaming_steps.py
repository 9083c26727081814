"""The steps of a seqio task behind its cache placeholder, as manifests describe them: rows carry them out when they are streamed.

In `inputs`, `noise` is {"rows": class, "options": {field: text}}; a feature may have `eos_after_trim`.
"""

import functools
import re
from collections.abc import Callable
from typing import Any

ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def describe_noise(make: Callable[..., Any]) -> dict[str, Any]:
    """The description of `make`, a class of `t5x_like.data.rows` or a functools.partial of one with keywords.

    Raises:
      ValueError: it is something else.
    """
    function, options = (make.func, make.keywords) if isinstance(make, functools.partial) else (make, {})
    if not isinstance(function, type) or (isinstance(make, functools.partial) and make.args):
        raise ValueError(
            f"make={make!r} is not a class of t5x_like.data.rows, or a functools.partial of one with keywords"
        )
    return {"rows": function.__name__, "options": {name: text_of(value) for name, value in options.items()}}


def text_of(value: Any) -> str:
    """A value as text that is equal in every process, and for equal numbers."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return repr(float(value))
    return ADDRESS.sub("", repr(value))


def noise_of(cache: Any) -> dict[str, Any] | None:
    """The noise that a cache's task declares, or None."""
    return cache.manifest.get("inputs", {}).get("noise")


def check_noise(rows: Any) -> None:
    """Checks that rows carry out the noise that the tasks of their caches declare.

    Raises:
      ValueError: they are of another class, or have other options; the message names both and the remedy.
    """
    for cache in rows.caches:
        noise = noise_of(cache)
        if noise is None:
            continue
        same = type(rows).__name__ == noise["rows"]
        if same and all(text_of(getattr(rows, name, None)) == text for name, text in noise["options"].items()):
            continue
        actual = {name: getattr(rows, name) for name in noise["options"] if same and hasattr(rows, name)}
        declared, found = (
            f"{name}({', '.join(f'{key}={value}' for key, value in options.items())})"
            for name, options in ((noise["rows"], noise["options"]), (type(rows).__name__, actual))
        )
        raise ValueError(
            f"task {cache.task!r} has the noise {declared} behind its CacheDatasetPlaceholder, but ROWS are {found}; take the "
            f"file of gin_configs/objectives with ROWS = @rows.{noise['rows']} and set its parameters, or remove the step"
        )


def keeps_eos(cache: Any, feature: str) -> bool:
    """Whether an example that is cut still ends with the end of sequence (seqio's append_eos_after_trim)."""
    return bool(cache.manifest.get("inputs", {}).get("features", {}).get(feature, {}).get("eos_after_trim"))

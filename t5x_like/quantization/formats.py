"""The names of the formats of quantized weights and caches. Importing this module does not load JAX."""

from collections.abc import Sequence

WEIGHTS = ("int8",)
CACHE = ("int8",)


def check(option: str, name: str | None, names: Sequence[str]) -> None:
    """Checks that an option has the name of a format, or None.

    Raises:
      ValueError: it does not.
    """
    if name is not None and name not in names:
        raise ValueError(f"{option}={name!r} is not a known format; use {' or '.join(map(repr, names))}, or None")

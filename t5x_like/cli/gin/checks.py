"""Checks of a complete configuration: used macros are set, overrides are used, and nothing is still REQUIRED."""

from collections.abc import Collection

from t5x_like.cli.gin import source
from t5x_like.cli.gin.source import Binding, ConfigError, Macro, Place, join_scope, suggest


def check_macros(bindings: Collection[Binding]) -> None:
    """Raises ConfigError for a macro that is used but not set, and for one that is set but, probably misspelt, not used."""
    set_here = {binding.macro: binding.place for binding in bindings if binding.macro}
    used = {
        item.name: binding.place
        for binding in bindings
        for item in source.find_references(binding.value)
        if isinstance(item, Macro) and item.name != source.REQUIRED
    }
    for name, place in set_here.items():
        if name not in used:
            check_unused(name, place, used)
    raise_unset({name: place for name, place in used.items() if name not in set_here})


def check_unused(name: str, place: Place, used: Collection[str]) -> None:
    """Raises ConfigError for an unused override, or an unused macro that differs from a used one by one letter."""
    if not place.line:
        raise place.error(f"no gin file uses {name}{suggest(name, used)}")
    for other in used:
        if sorted(other) == sorted(name) or count_differences(name, other) <= 1:
            raise place.error(f"nothing uses {name}; did you mean {other}?")


def count_differences(one: str, two: str) -> int:
    """The length of what remains of two words without their common prefix and suffix."""
    while one and two and one[0] == two[0]:
        one, two = one[1:], two[1:]
    while one and two and one[-1] == two[-1]:
        one, two = one[:-1], two[:-1]
    return max(len(one), len(two))


def check_required(bindings: Collection[Binding]) -> None:
    """Raises ConfigError with every parameter and macro that is still %gin.REQUIRED, and how to set it."""
    unset = {}
    for binding in bindings:
        if Macro(source.REQUIRED) in source.find_references(binding.value):
            short = ".".join(binding.selector.replace(":", ".").split(".")[-2:])
            unset[binding.macro or f"{join_scope(binding.scope, short)}.{binding.parameter}"] = binding.place
    raise_unset(unset)


def raise_unset(unset: dict[str, Place]) -> None:
    """Raises ConfigError if there are unset names, with the ways to set each of them."""
    lines = []
    for name, place in unset.items():
        files = source.files_that_set(name)
        remedy = f", or add a file that sets it ({', '.join(files[:6])})" if files else ""
        lines.append(f"  {name} ({place}): give --gin.{name}=VALUE{remedy}")
    if lines:
        raise ConfigError("\n".join(["these are not set:", *lines]))

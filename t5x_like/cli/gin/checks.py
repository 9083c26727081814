"""Checks of a whole configuration: every macro that is read is set, every override is read, nothing is still REQUIRED."""

from collections.abc import Collection

from t5x_like.cli.gin import source
from t5x_like.cli.gin.source import Binding, ConfigError, Macro, Place, joined, near


def check_macros(bindings: Collection[Binding]) -> None:
    """Raises ConfigError for a macro that is read but set nowhere, and for one that is set but, misspelt, read nowhere."""
    set_here = {binding.macro: binding.place for binding in bindings if binding.macro}
    read = {
        item.name: binding.place
        for binding in bindings
        for item in source.mentioned(binding.value)
        if isinstance(item, Macro) and item.name != source.REQUIRED
    }
    for name, place in set_here.items():
        if name not in read:
            check_unread(name, place, read)
    refuse_unset({name: place for name, place in read.items() if name not in set_here})


def check_unread(name: str, place: Place, read: Collection[str]) -> None:
    """Files may set macros that a composition has no use for, but hardly a letter beside one that is read."""
    if not place.line:
        raise place.error(f"nothing in the gin files reads {name}{near(name, read)}")
    for other in read:
        if sorted(other) == sorted(name) or differences(name, other) <= 1:
            raise place.error(f"nothing reads {name}; did you mean {other}?")


def differences(one: str, two: str) -> int:
    """How many letters differ between what two words have in common at their beginnings and ends."""
    while one and two and one[0] == two[0]:
        one, two = one[1:], two[1:]
    while one and two and one[-1] == two[-1]:
        one, two = one[:-1], two[:-1]
    return max(len(one), len(two))


def check_required(bindings: Collection[Binding]) -> None:
    """Raises ConfigError that lists everything still %gin.REQUIRED and how to set it."""
    unset = {}
    for binding in bindings:
        if Macro(source.REQUIRED) in source.mentioned(binding.value):
            short = ".".join(binding.selector.replace(":", ".").split(".")[-2:])
            unset[binding.macro or f"{joined(binding.scope, short)}.{binding.parameter}"] = binding.place
    refuse_unset(unset)


def refuse_unset(unset: dict[str, Place]) -> None:
    """Raises ConfigError that says how each of the names can be set, if there are any."""
    lines = []
    for name, place in unset.items():
        files = source.files_that_set(name)
        remedy = f", or add a file that sets it ({', '.join(files[:6])})" if files else ""
        lines.append(f"  {name} ({place}): give --gin.{name}=VALUE{remedy}")
    if lines:
        raise ConfigError("\n".join(["these are not set:", *lines]))

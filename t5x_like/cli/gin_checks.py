"""Checks of a whole configuration: every macro that is read is set, every override is read, nothing is still REQUIRED."""

from collections.abc import Collection

from t5x_like.cli import gin_source
from t5x_like.cli.gin_source import Binding, ConfigError, Macro, joined, near


def check_macros(bindings: Collection[Binding]) -> None:
    """Raises ConfigError for a macro that nothing sets, and for one that nothing reads though it was meant to be read."""
    set_here = {binding.macro: binding.place for binding in bindings if binding.macro}
    read = {
        item.name: binding.place
        for binding in bindings
        for item in gin_source.mentioned(binding.value)
        if isinstance(item, Macro) and item.name != gin_source.REQUIRED
    }
    for name, place in read.items():
        if name not in set_here:
            sets = gin_source.files_that_set(name)
            files = f", or add a file that sets it ({', '.join(sets[:6])})" if sets else ""
            unread = [other for other in set_here if other not in read]
            raise place.error(f"nothing sets {name}{near(name, unread)}; give --gin.{name}=VALUE{files}")
    for name, place in set_here.items():
        if name in read:
            continue
        if not place.line:
            raise place.error(f"nothing in the gin files reads {name}{near(name, list(read))}")
        # A file may set macros that this composition has no use for, but hardly a letter beside one that is read.
        for other in read:
            if sorted(other) == sorted(name) or differences(name, other) <= 1:
                raise place.error(f"nothing reads {name}; did you mean {other}?")


def differences(one: str, two: str) -> int:
    """How many letters are in one of the words only, at the place where they part."""
    start = next((i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))
    one, two = one[start:], two[start:]
    while one and two and one[-1] == two[-1]:
        one, two = one[:-1], two[:-1]
    return max(len(one), len(two))


def check_required(bindings: Collection[Binding]) -> None:
    """Raises ConfigError that lists everything still %gin.REQUIRED and how to set it."""
    open_bindings = [b for b in bindings if Macro(gin_source.REQUIRED) in gin_source.mentioned(b.value)]
    if not open_bindings:
        return
    lines = []
    for binding in open_bindings:
        short = binding.selector.replace(":", ".").split(".")[-2:]
        name = binding.macro or f"{joined(binding.scope, '.'.join(short))}.{binding.parameter}"
        sets = gin_source.files_that_set(name) if binding.macro else []
        files = f", or add one of {', '.join(sets[:6])}" if sets else ""
        lines.append(f"  {name} ({binding.place}): give --gin.{name}=VALUE{files}")
    raise ConfigError("\n".join(["these must be set:", *lines]))

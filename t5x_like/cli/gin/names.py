"""What the names in gin files mean: imports the modules they name and finds each function, class and parameter."""

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from t5x_like.cli.gin import source as gin_source
from t5x_like.cli.gin.source import Binding, Import, Place, Reference, Source, near


@dataclass
class Names:
    """What the names in gin files mean: modules, and the one selector by which each function or class is known."""

    modules: set[str] = field(default_factory=set)
    targets: dict[str, Any] = field(default_factory=dict)
    selectors: dict[int, str] = field(default_factory=dict)

    def import_all(self, source: Source) -> None:
        for statement in source.imports.values():
            import_module(statement)
            self.modules.add(statement.module)

    def resolve(self, source: Source, binding: Binding) -> Binding:
        """`binding` with full selectors. Raises ConfigError for a name that does not exist."""

        def change(reference: Reference) -> Reference:
            return Reference(reference.scope, self.find(source, reference.selector, binding.place), reference.call)

        value = gin_source.rewritten(binding.value, change)
        selector = binding.selector and self.find(source, binding.selector, binding.place)
        if selector:
            known = parameters(self.targets[selector])
            takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values())
            if binding.parameter not in known and not takes_any:
                hint = near(binding.parameter, list(known)) or f" (it has {', '.join(known) or 'none'})"
                raise binding.place.error(f"{binding.selector} has no parameter {binding.parameter!r}{hint}")
        return Binding(binding.scope, selector, binding.parameter, value, binding.place)

    def find(self, source: Source, selector: str, place: Place) -> str:
        """The full selector (module:attributes) of what `selector` means in `source`."""
        first, *rest = selector.split(".")
        if first not in source.imports:
            remedy = (
                near(first, list(source.imports)) or "; import its module in this file (from PACKAGE import MODULE)"
            )
            if not source.dynamic:
                remedy += ", below the line `from __gin__ import dynamic_registration`"
            raise place.error(f"{selector}: no import statement provides {first!r}{remedy}")
        path = source.imports[first].bound
        value = sys.modules[path]
        for index, name in enumerate(rest):
            if not hasattr(value, name):
                public = [known for known in dir(value) if not known.startswith("_")]
                raise place.error(f"{'.'.join([first, *rest[:index]])} has no {name!r}{near(name, public)}")
            value = getattr(value, name)
        if not rest or not callable(value):
            raise place.error(f"{selector} is not a function or class, so gin cannot configure or refer to it")
        while len(rest) > 1 and sys.modules.get(f"{path}.{rest[0]}") is getattr(sys.modules[path], rest[0]):
            path = f"{path}.{rest.pop(0)}"
        full = self.selectors.setdefault(id(value), f"{path}:{'.'.join(rest)}")
        self.targets[full] = value
        self.modules.add(full.partition(":")[0])
        return full

    def aliases(self) -> dict[str, str]:
        """A name for every module: its last part, or as much of its path as makes it different from the others."""
        names: dict[str, str] = {}
        for path in sorted(self.modules):
            parts = path.split(".")
            forms = ["_".join(parts[-n:]) for n in range(1, len(parts) + 1)]
            forms += [f"{path.replace('.', '_')}_{n}" for n in range(2, len(self.modules) + 2)]
            taken = {*names.values(), "gin"}
            names[path] = next(form for form in forms if form not in taken)
        return names

    def matching(self, name: str) -> list[str]:
        """Full selectors that `name` can mean: a whole path, or the end of one (`trainer.train`)."""
        return [full for full in self.targets if f".{full.replace(':', '.')}".endswith(f".{name}")]


def import_module(statement: Import) -> None:
    try:
        importlib.import_module(statement.module)
    except ModuleNotFoundError as error:
        parent, _, _ = (error.name or "").rpartition(".")
        if not statement.module.startswith(error.name or "?"):
            raise statement.place.error(f"importing {statement.module} needs {error.name}, which is missing") from error
        folder = importlib.import_module(parent).__path__ if parent else None
        known = [f"{parent}.{module.name}".strip(".") for module in pkgutil.iter_modules(folder)]
        raise statement.place.error(f"there is no module {error.name}{near(error.name, known)}") from None


def parameters(target: Callable) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(target).parameters)
    except (TypeError, ValueError):  # some builtins have no signature
        return {"_": inspect.Parameter("_", inspect.Parameter.VAR_KEYWORD)}


def everything_imported(sources: Sequence[Source]) -> Source:
    """The names of the command line: those all files agree on, and full paths (`t5x_like.training.trainer.train`)."""
    found: dict[str, Import] = {}
    unclear = set()
    for source in sources:
        for name, statement in source.imports.items():
            if found.setdefault(name, statement).bound != statement.bound:
                unclear.add(name)
            top = statement.module.partition(".")[0]
            found.setdefault(top, Import(top, top, statement.place))
    return Source({name: statement for name, statement in found.items() if name not in unclear}, dynamic=True)

"""Resolves the names in gin files: imports their modules and finds each function, class and parameter."""

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from t5x_like.cli.gin import source as gin_source
from t5x_like.cli.gin.source import Binding, Import, Place, Reference, Source, suggest
from t5x_like.cli.gin.trust import check_import, check_target


@dataclass
class Names:
    """The names that gin files use.

    Attributes:
      modules: imported modules.
      targets: functions and classes by full selector (`module:attributes`).
      selectors: full selector of each target, by its id.
    """

    modules: set[str] = field(default_factory=set)
    targets: dict[str, Any] = field(default_factory=dict)
    selectors: dict[int, str] = field(default_factory=dict)

    def import_all(self, source: Source) -> None:
        """Imports the modules of a file's import statements."""
        for statement in source.imports.values():
            import_module(statement)
            self.modules.add(statement.module)

    def resolve(self, source: Source, binding: Binding) -> Binding:
        """Returns the binding with full selectors.

        Raises:
          ConfigError: a name that does not exist.
        """

        def change(reference: Reference) -> Reference:
            full = self.find(source, reference.selector, binding.place, is_reference=True)
            return Reference(reference.scope, full, reference.call)

        value = gin_source.map_references(binding.value, change)
        selector = binding.selector and self.find(source, binding.selector, binding.place)
        if selector:
            known = parameters(self.targets[selector])
            variadic = any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values())
            if binding.parameter not in known and not variadic:
                hint = suggest(binding.parameter, list(known)) or f" (it has {', '.join(known) or 'none'})"
                raise binding.place.error(f"{binding.selector} has no parameter {binding.parameter!r}{hint}")
        return Binding(binding.scope, selector, binding.parameter, value, binding.place)

    def find(self, source: Source, selector: str, place: Place, is_reference: bool = False) -> str:
        """The full selector (`module:attributes`) of a selector in `source`.

        Raises:
          ConfigError: there is no such function or class, or a run's configuration may not name it.
        """
        first, *rest = selector.split(".")
        if first not in source.imports:
            remedy = (
                suggest(first, list(source.imports)) or "; import its module in this file (from PACKAGE import MODULE)"
            )
            if not source.dynamic:
                remedy += ", below the line `from __gin__ import dynamic_registration`"
            raise place.error(f"{selector}: no import statement provides {first!r}{remedy}")
        path = source.imports[first].bound
        value = sys.modules[path]
        for index, name in enumerate(rest):
            if not hasattr(value, name):
                public = [member for member in dir(value) if not member.startswith("_")]
                raise place.error(f"{'.'.join([first, *rest[:index]])} has no {name!r}{suggest(name, public)}")
            value = getattr(value, name)
        if not rest or not callable(value):
            raise place.error(f"{selector} is not a function or class, so gin cannot configure or refer to it")
        while len(rest) > 1 and sys.modules.get(f"{path}.{rest[0]}") is getattr(sys.modules[path], rest[0]):
            path = f"{path}.{rest.pop(0)}"
        full = f"{path}:{'.'.join(rest)}"
        check_target(value, full, place, is_reference)
        full = self.selectors.setdefault(id(value), full)
        self.targets[full] = value
        self.modules.add(full.partition(":")[0])
        return full

    def aliases(self) -> dict[str, str]:
        """A unique name for every module: the last part of its path, or as many parts as make it unique."""
        names: dict[str, str] = {}
        for path in sorted(self.modules):
            parts = path.split(".")
            forms = ["_".join(parts[-n:]) for n in range(1, len(parts) + 1)]
            forms += [f"{path.replace('.', '_')}_{n}" for n in range(2, len(self.modules) + 2)]
            used = {*names.values(), "gin"}
            names[path] = next(form for form in forms if form not in used)
        return names

    def find_selectors(self, name: str) -> list[str]:
        """The full selectors that `name` can mean: those whose path is or ends with it (`trainer.train`)."""
        return [full for full in self.targets if f".{full.replace(':', '.')}".endswith(f".{name}")]


def import_module(statement: Import) -> None:
    """Imports the module of a statement.

    Raises:
      ConfigError: the module, or one that it imports, does not exist, or a run's configuration may not import it.
    """
    check_import(statement.module, statement.place)
    try:
        importlib.import_module(statement.module)
    except ModuleNotFoundError as error:
        parent, _, _ = (error.name or "").rpartition(".")
        if not statement.module.startswith(error.name or "?"):
            raise statement.place.error(
                f"importing {statement.module} requires {error.name}, which is not installed"
            ) from error
        folder = getattr(importlib.import_module(parent), "__path__", ()) if parent else None
        known = [f"{parent}.{module.name}".strip(".") for module in pkgutil.iter_modules(folder)]
        raise statement.place.error(f"there is no module {error.name}{suggest(error.name or '', known)}") from None


def parameters(target: Callable) -> dict[str, inspect.Parameter]:
    """The parameters of a function or class, by name."""
    try:
        return dict(inspect.signature(target).parameters)
    except (TypeError, ValueError):  # some builtins have no signature
        return {"_": inspect.Parameter("_", inspect.Parameter.VAR_KEYWORD)}


def merge_imports(sources: Sequence[Source]) -> Source:
    """The names that overrides may use: those with one meaning in all files, and full paths (`PACKAGE.MODULE.NAME`)."""
    imports: dict[str, Import] = {}
    ambiguous = set()
    for source in sources:
        for name, statement in source.imports.items():
            if imports.setdefault(name, statement).bound != statement.bound:
                ambiguous.add(name)
            top = statement.module.partition(".")[0]
            imports.setdefault(top, Import(top, top, statement.place))
    return Source({name: statement for name, statement in imports.items() if name not in ambiguous}, dynamic=True)

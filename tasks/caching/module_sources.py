"""Finds the source files that a task's examples depend on: its modules, and what they import of their own project."""

import ast
import functools
from collections.abc import Iterable, Iterator
from pathlib import Path

from t5x_like.data.cache import sources

# Imports of these packages are followed from any module; the rest of t5x_like does not change examples.
EXAMPLE_PACKAGES = ("t5x_like.tasks", "t5x_like.cleaning", "t5x_like.prompting", "t5x_like.data.chats")


def with_imports(modules: Iterable[str]) -> set[str]:
    """The modules and their direct and indirect imports of their own packages, of modules beside them, and of
    `EXAMPLE_PACKAGES`."""
    visited: set[str] = set()
    pending = list(modules)
    packages = (*EXAMPLE_PACKAGES, *map(package_of, pending))
    projects = {project_of(name) for name in pending} - {None}
    while pending:
        name = pending.pop()
        if name not in visited:
            visited.add(name)
            imported = imported_modules(name)
            pending += (x for x in imported if is_inside(x, packages) or (projects and project_of(x) in projects))
    return visited


def package_of(module: str) -> str:
    """The package that a module's tasks are defined in: its top-level one, or `t5x_like.tasks`."""
    return "t5x_like.tasks" if is_inside(module, ["t5x_like"]) else module.partition(".")[0]


@functools.cache
def project_of(module: str) -> Path | None:
    """The folder with the user's own modules, if a module is one of them."""
    return None if is_inside(module, ["t5x_like"]) else sources.project_of(module)


def is_inside(name: str, packages: Iterable[str]) -> bool:
    """Whether a module is one of the packages or in one of them."""
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def imported_modules(name: str) -> Iterator[str]:
    """The modules that a module imports, inside functions too; none if it has no Python source."""
    path = sources.locate(name)
    if path is None or path.suffix != ".py":
        return
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (find_submodule(base, alias.name) or base for alias in node.names)


def find_submodule(package: str, name: str) -> str | None:
    """The full name of the module `name` of a package, or None if it has no such module."""
    path = sources.locate(package)
    if path is None or path.name != "__init__.py":
        return None
    exists = any((path.parent / file).exists() for file in (f"{name}.py", f"{name}/__init__.py"))
    return f"{package}.{name}" if exists else None

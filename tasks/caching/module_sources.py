"""Which source files a task's examples depend on: the modules that define it, and what those import of their own package."""

import ast
import importlib.util
from collections.abc import Iterable, Iterator
from pathlib import Path

# Followed wherever they are imported; the rest of t5x_like makes no examples.
MAKE_EXAMPLES = ("t5x_like.tasks", "t5x_like.cleaning", "t5x_like.prompting", "t5x_like.data.tokenizers.chat")


def with_imports(modules: Iterable[str]) -> set[str]:
    """The modules, and all that they import, directly or not, of their own packages and of those that make examples."""
    found: set[str] = set()
    left = list(modules)
    followed = (*MAKE_EXAMPLES, *map(package_of, left))
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            left += imported(name, followed)
    return found


def package_of(module: str) -> str:
    """The package that a module's tasks are defined in: its top-level one, or `t5x_like.tasks`."""
    return "t5x_like.tasks" if inside(module, ["t5x_like"]) else module.partition(".")[0]


def inside(name: str, packages: Iterable[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def imported(name: str, followed: tuple[str, ...]) -> Iterator[str]:
    """The modules of the followed packages that a module's source imports, inside functions too; none without a source."""
    path = origin(name)
    if path is None or path.suffix != ".py":
        return
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if inside(alias.name, followed))
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            modules = (submodule(base, alias.name) or base for alias in node.names)
            yield from (module for module in modules if inside(module, followed))


def submodule(package: str, name: str) -> str | None:
    """The module `name` of a package, if it is one."""
    path = origin(package)
    there = path is not None and path.name == "__init__.py"
    found = there and any((path.parent / file).exists() for file in (f"{name}.py", f"{name}/__init__.py"))
    return f"{package}.{name}" if found else None


def origin(name: str) -> Path | None:
    """The file of a module, found without running it (its packages are imported)."""
    try:
        spec = importlib.util.find_spec(name)
    except (ModuleNotFoundError, ValueError):
        return None
    return Path(spec.origin) if spec is not None and spec.origin not in (None, "built-in", "frozen") else None

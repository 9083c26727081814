"""Locates the source files of modules; nothing is imported, so that a name from elsewhere cannot run code."""

import os
import sys
from pathlib import Path


def default_root() -> Path:
    """The folder of everything that is cached: $T5X_LIKE_CACHE, or ~/.cache/t5x_like."""
    return Path(os.environ.get("T5X_LIKE_CACHE") or Path.home() / ".cache" / "t5x_like")


def locate(module: str) -> Path | None:
    """The source file of a module; None if there is no such module, or if it has no source file."""
    parts, places = module.split("."), None
    origin = None
    for count in range(1, len(parts) + 1):
        name = ".".join(parts[:count])
        finders = (getattr(finder, "find_spec", None) for finder in sys.meta_path)
        spec = next((spec for find in finders if find and (spec := find(name, places))), None)
        if spec is None:
            return None
        loaded = getattr(sys.modules.get(name), "__path__", None)  # t5x_like extends its own in a checkout
        places = list(loaded or spec.submodule_search_locations or ())
        origin = spec.origin if spec.has_location else None
        if count < len(parts) and not places:
            return None
    return None if origin is None else Path(origin)


def project_of(module: str) -> Path | None:
    """The folder that contains the top-level module or package of a module; None if it is installed, or not found."""
    top = module.partition(".")[0]
    path = None if top in sys.stdlib_module_names else locate(top)
    if path is None:
        return None
    folder = path.parent.parent if path.name == "__init__.py" else path.parent
    return None if {"site-packages", "dist-packages"} & set(folder.parts) else folder.resolve()


def same_project(module: str, other: str) -> bool:
    """Whether two modules belong to one package, or to modules that are not installed and lie in one folder."""
    if module.partition(".")[0] == other.partition(".")[0]:
        return True
    project = project_of(module)
    return project is not None and project == project_of(other)

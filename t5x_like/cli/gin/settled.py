"""Values that a resolved configuration holds as they were: absolute paths, and macros that others determine.

So config.gin of a run directory means the same in any folder, and needs no tokenizer to give the model.
"""

import dataclasses
import glob
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from t5x_like.cli.gin.source import Binding, Reference
from t5x_like.data.tokenizers import named

# Macros and parameters that are paths or globs.
PATHS = {
    *("RUN_DIR", "INITIAL", "TRAIN_FILES", "VALIDATION_FILES", "FOLDER", "DATA_DIR"),
    *("run_dir", "root"),
}
VOCABULARIES = {"VOCABULARY", "vocabulary"}  # a path, or a name such as bytes
DATA_SETS = "DATA_SETS"  # {name: arguments of a data set}, whose paths are:
ARGUMENTS = {"folder", "data_dir"}
FILES_MODULE, FILE_ARGUMENTS = "t5x_like.tasks.custom.files", {"train", "validation"}  # elsewhere these are splits
# Functions that compute a macro from others.
DERIVED = {"t5x_like.data.tokenizers.named:vocab_size"}


def with_absolute_paths(bindings: Collection[Binding], folder: Path) -> tuple[Binding, ...]:
    """The bindings with relative paths as paths in `folder`."""
    of_files = any(binding.value == FILES_MODULE for binding in bindings)
    arguments = ARGUMENTS | FILE_ARGUMENTS if of_files else ARGUMENTS

    def change(binding: Binding) -> Any:
        if binding.parameter in PATHS:
            return absolute(binding.value, folder)
        if binding.parameter in VOCABULARIES:
            return absolute_vocabulary(binding.value, folder)
        if binding.parameter == DATA_SETS and isinstance(binding.value, dict):
            return {name: absolute_arguments(own, arguments, folder) for name, own in binding.value.items()}
        return binding.value

    return tuple(dataclasses.replace(binding, value=change(binding)) for binding in bindings)


def absolute_arguments(own: Any, names: Collection[str], folder: Path) -> Any:
    """The arguments of a data set with absolute paths."""
    if not isinstance(own, Mapping):
        return own
    own = {name: absolute(value, folder) if name in names else value for name, value in own.items()}
    return own | {name: absolute_vocabulary(own[name], folder) for name in VOCABULARIES & set(own)}


def absolute_vocabulary(value: Any, folder: Path) -> Any:
    """The path of a vocabulary in `folder`; a name is returned unchanged."""
    if not isinstance(value, str) or value in named.SIZES or not (folder / Path(value).expanduser()).exists():
        return value
    return absolute(value, folder)


def absolute(value: Any, folder: Path) -> Any:
    """A path or glob, or a list of them, in `folder`; what is no path is returned unchanged."""
    if isinstance(value, list | tuple):
        return type(value)(absolute(item, folder) for item in value)
    if not isinstance(value, str) or not value or "://" in value:
        return value
    path = Path(value).expanduser()
    if path.is_absolute():
        return str(path)
    return f"{glob.escape(str(folder))}/{path}" if glob.has_magic(value) else str(folder / path)


def with_derived_values(bindings: Collection[Binding], evaluate: Callable[[str], Any]) -> tuple[Binding, ...]:
    """The bindings with the values of DERIVED functions in the place of calls; `evaluate` gives the value of a macro."""

    def change(binding: Binding) -> Binding:
        value = binding.value
        is_derived = isinstance(value, Reference) and value.call and value.selector in DERIVED
        return dataclasses.replace(binding, value=evaluate(f"%{binding.macro}")) if is_derived else binding

    return tuple(change(binding) for binding in bindings if binding.selector not in DERIVED)

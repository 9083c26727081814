"""Reads gin files as text, before importing anything: statements with their places, and the references in their values."""

import dataclasses
import difflib
import functools
import math
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gin import config_parser

from t5x_like import gin_configs

PACKAGED = Path(gin_configs.__file__).parent
REQUIRED = "gin.REQUIRED"
RESOLVED = "# Resolved by t5x_like"  # the start of a configuration that a run wrote
# Command-line values that are strings without quotes, as in --gin.RUN_DIR=/tmp/x and --gin.TRAIN_FILES=/data/*.txt.
PLAIN = re.compile(r"[A-Za-z/~._][\w./~:+,=*?-]*")


class ConfigError(ValueError):
    """An unusable configuration; the message has the place and the remedy. Printed without a traceback."""


@dataclass(frozen=True)
class Reference:
    """`@scope/selector` or `@scope/selector()` in a value."""

    scope: str
    selector: str
    call: bool

    def __repr__(self) -> str:
        return f"@{join_scope(self.scope, self.selector)}{'()' if self.call else ''}"


@dataclass(frozen=True)
class Macro:
    """`%NAME` in a value."""

    name: str

    def __repr__(self) -> str:
        return f"%{self.name}"


class Infinity(float):
    """An infinite number, written as gin reads it: gin has no name for it."""

    def __repr__(self) -> str:
        return "1e999" if self > 0 else "-1e999"


@dataclass(frozen=True)
class Place:
    """The place of a statement: a file and line, or a command-line flag.

    `packaged` marks the files of gin_configs/, `resolved` the configuration that a run wrote. `allowed` are the modules that a
    run's configuration may name besides this package (see `trust`), None of a file that may name any.
    """

    file: str
    line: int = 0
    text: str = ""
    packaged: bool = False
    resolved: bool = False
    allowed: tuple[str, ...] | None = None

    def error(self, message: str) -> ConfigError:
        """A ConfigError with the place before the message."""
        where = f"{self.file}:{self.line}" if self.line else self.file
        return ConfigError(f"{where}: {message}" + (f"\n    {self.text}" if self.text else ""))

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


@dataclass(frozen=True)
class Binding:
    """`scope/selector.parameter = value`. A macro has an empty selector, and its name as parameter."""

    scope: str
    selector: str
    parameter: str
    value: Any
    place: Place

    @property
    def macro(self) -> str | None:
        """The name of the macro that the binding sets, or None."""
        return None if self.selector else join_scope(self.scope, self.parameter)


@dataclass(frozen=True)
class Import:
    """An import statement for `module`; its name refers to the module `bound` (`import a.b` binds a)."""

    module: str
    bound: str
    place: Place


@dataclass
class Source:
    """The module names of one file or of the command line; `dynamic` if it has dynamic registration."""

    imports: dict[str, Import] = field(default_factory=dict)
    dynamic: bool = False


def join_scope(scope: str, name: str) -> str:
    """`scope/name`, or the name if the scope is empty."""
    return f"{scope}/{name}" if scope else name


def suggest(name: str, names: Iterable[str]) -> str:
    """`; did you mean a or b?` with the closest of `names`, or "" if none is close."""
    close = difflib.get_close_matches(name, sorted(set(names)), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def find_references(value: Any) -> list[Reference | Macro]:
    """All references and macros in a value, at any depth."""
    if isinstance(value, Reference | Macro):
        return [value]
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list | tuple):
        return [reference for item in value for reference in find_references(item)]
    return []


def map_references(value: Any, change: Callable[[Reference], Reference]) -> Any:
    """Replaces every reference in a value by `change(reference)`, and infinite numbers by `Infinity`."""
    if isinstance(value, Reference):
        return change(value)
    if isinstance(value, float) and math.isinf(value):
        return Infinity(value)
    if isinstance(value, dict):
        return {map_references(k, change): map_references(v, change) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map_references(item, change) for item in value)
    return value


class Delegate(config_parser.ParserDelegate):
    """Parses references and macros as `Reference` and `Macro`, without resolving them."""

    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> Reference:
        """`@scope/selector`, called if `evaluate`."""
        scope, _, selector = scoped_configurable_name.rpartition("/")
        return Reference(scope, selector, evaluate)

    def macro(self, macro_name: str) -> Macro:
        """`%NAME`."""
        return Macro(macro_name)


@dataclass
class Reader:
    """Reads files, their includes and command-line overrides, in the order in which gin binds them."""

    search_paths: Sequence[str]
    sources: list[Source] = field(default_factory=list)
    bindings: list[tuple[Source, Binding]] = field(default_factory=list)
    open_files: list[Path] = field(default_factory=list)

    def read_file(self, name: str, place: Place | None = None, allowed: tuple[str, ...] | None = None) -> None:
        """Reads a file, with the limits of the file that includes it or those of `allowed`.

        Raises:
          ConfigError: the file does not exist, includes itself or is not gin.
        """
        path = find_file(name, self.search_paths, place)
        if path in self.open_files:
            raise (place or Place(name)).error(f"{name} includes itself")
        self.open_files.append(path)
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise (place or Place(name)).error(f"not gin: byte {error.start} is not UTF-8; save it as UTF-8") from None
        packaged, allowed = path.is_relative_to(PACKAGED), place.allowed if place else allowed
        limits = None if packaged else allowed
        file = Place(display_path(path), 0, "", packaged, text.startswith(RESOLVED), limits)
        self.read_text(text, file)
        self.open_files.pop()

    def read_text(self, text: str, file: Place) -> None:
        """Reads a gin text; `file` is its place in messages."""
        source = Source()
        self.sources.append(source)
        for statement in parse_statements(text, file.file):
            self.add_statement(source, statement, file)

    def add_statement(self, source: Source, statement: Any, file: Place) -> None:
        """Adds an import or binding, or reads an included file."""
        location = statement.location
        place = dataclasses.replace(file, line=location.line_num, text=location.line_content.strip())
        match statement:
            case config_parser.IncludeStatement(filename=filename):
                self.read_file(filename, place)
            case config_parser.ImportStatement(module="__gin__.dynamic_registration"):
                source.dynamic = True
            case config_parser.ImportStatement():
                name = statement.bound_name()
                bound = statement.module if statement.is_from or statement.alias else name
                source.imports[name] = Import(statement.module, bound, place)
            case config_parser.BindingStatement(scope=scope, selector=selector, arg_name=name, value=value):
                binding = Binding(scope, selector, name, value, place)
                if not name:  # NAME = value
                    binding = Binding(scope, "", selector, value, place)
                self.bindings.append((source, binding))

    def read_override(self, flag: str, source: Source) -> None:
        """Reads `--gin.NAME=value`; `source` has the names that it may use."""
        place = Place(flag)
        name, equals, text = flag.removeprefix("--gin.").partition("=")
        if not (name and equals):
            raise place.error("write it as --gin.NAME=value")
        scope, selector, parameter = parse_key(name, place)
        binding = Binding(scope, selector, parameter, parse_override_value(text, place), place)
        if not parameter:
            binding = Binding(scope, "", selector, binding.value, place)
        self.bindings.append((source, binding))


def parse_key(name: str, place: Place) -> tuple[str, str, str]:
    """Parses the name of an override: (scope, selector, parameter); a macro has no parameter."""
    try:
        statement = next(config_parser.ConfigParser(f"{name} = 0", Delegate()))
        return statement.scope, statement.selector, statement.arg_name
    except (SyntaxError, StopIteration, AttributeError):
        raise place.error(f"{name!r} is neither a macro (NAME) nor a parameter (module.function.parameter)") from None


def parse_override_value(text: str, place: Place) -> Any:
    """Parses the value of an override; a word or path that is not a gin value is a string.

    Raises:
      ConfigError: neither a gin value nor a word or path.
    """
    try:
        statement, *rest = list(config_parser.ConfigParser(f"X = {text}", Delegate()))
        if not rest:
            return statement.value
    except Exception:  # gin's parser and Python's tokenizer raise several kinds
        pass
    python = {"true": "True", "false": "False", "none": "None", "null": "None"}.get(text.lower())
    if python:
        raise place.error(f"write {python}, or '\"{text}\"' for the string")
    if PLAIN.fullmatch(text):
        return str(Path(text).expanduser()) if text.startswith("~") else text
    raise place.error(f"{text!r} is not a gin value; a string with these characters needs quotes: --gin.NAME=\"'...'\"")


def parse_statements(text: str, file: str) -> list[Any]:
    """Parses a text with gin's parser.

    Raises:
      ConfigError: the text is not gin; the message has file and line.
    """
    try:
        return list(config_parser.ConfigParser(text, Delegate()))
    except SyntaxError as error:
        message, location = (*error.args, None)[:2]
        line = location[1] if location else 0
        error_line = text.split("\n")[line - 1].strip() if 0 < line <= text.count("\n") + 1 else ""
        raise Place(file, line, error_line).error(f"not gin: {message}") from None
    except Exception as error:  # an unclosed bracket is a tokenize.TokenError, a wrong selector a ValueError
        raise ConfigError(f"{file}: not gin: {error}") from None


def find_file(name: str, search_paths: Sequence[str], place: Place | None = None) -> Path:
    """Finds a gin file by path or short name: `runs/pretrain.gin`, or `pretrain` if only one file has that name.

    Searches the working directory, then `search_paths`, then the packaged gin_configs/.

    Raises:
      ConfigError: there is no such file, or more than one; the message has the closest names.
    """
    folders = [Path(), *(Path(path).expanduser() for path in search_paths), PACKAGED]
    for folder in folders:
        for candidate in (folder / name, folder / f"{name}.gin"):
            if os.path.isfile(candidate):  # also False for a name that is too long
                return candidate.resolve()
    known = [path for folder in folders[1:] for path in gin_files(folder)]
    short = f"/{name.removesuffix('.gin')}.gin"
    matches = sorted({path for _, path in known if f"/{path}".endswith(short)})
    if len(matches) == 1:
        return next(folder / path for folder, path in known if path == matches[0]).resolve()
    error = place.error if place else ConfigError
    if matches:
        raise error(f"gin file {name!r} could be {', '.join(matches)}; write more of the path")
    searched = ", ".join(str(folder.resolve()) for folder in folders)
    names = [form for _, path in known for form in (path, path.rpartition("/")[2].removesuffix(".gin"))]
    raise error(f"there is no gin file {name!r}{suggest(name, names)} (searched {searched})")


@functools.cache
def gin_files(folder: Path) -> list[tuple[Path, str]]:
    """(folder, relative path) of every gin file in a folder."""
    return [(folder, path.relative_to(folder).as_posix()) for path in sorted(folder.glob("**/*.gin"))]


def files_that_set(macro: str) -> list[str]:
    """The packaged gin files that set `macro`, by relative path."""
    sets = re.compile(rf"^{re.escape(macro)} *=(?! *%gin\.REQUIRED)", re.MULTILINE)
    return [name for folder, name in gin_files(PACKAGED) if sets.search((folder / name).read_text(encoding="utf-8"))]


def display_path(path: Path) -> str:
    """A path for messages, relative to the packaged files or the working directory if possible."""
    for folder in (PACKAGED, Path.cwd()):
        if path.is_relative_to(folder):
            return path.relative_to(folder).as_posix()
    return str(path)

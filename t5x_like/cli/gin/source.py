"""Reads gin files as text, before anything they name is imported: which statements stand where, and what they mention."""

import difflib
import functools
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gin import config_parser

from t5x_like import gin_configs

PACKAGED = Path(gin_configs.__file__).parent
REQUIRED = "gin.REQUIRED"
# An unquoted command-line value made of these is a string, as in --gin.RUN_DIR=/tmp/x and --gin.TRAIN_FILES=/data/*.txt.
PLAIN = re.compile(r"[A-Za-z/~._][\w./~:+,=*?-]*")


class ConfigError(ValueError):
    """The configuration cannot be used; the message says where and what to do. Printed without a traceback."""


@dataclass(frozen=True)
class Reference:
    """`@scope/selector` or `@scope/selector()` in a value."""

    scope: str
    selector: str
    call: bool

    def __repr__(self) -> str:
        return f"@{joined(self.scope, self.selector)}{'()' if self.call else ''}"


@dataclass(frozen=True)
class Macro:
    """`%NAME` in a value."""

    name: str

    def __repr__(self) -> str:
        return f"%{self.name}"


@dataclass(frozen=True)
class Place:
    """Where a statement stands: a file and line, or a command-line flag."""

    file: str
    line: int = 0
    text: str = ""

    def error(self, message: str) -> ConfigError:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return ConfigError(f"{where}: {message}" + (f"\n    {self.text}" if self.text else ""))

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


@dataclass(frozen=True)
class Binding:
    """`scope/selector.parameter = value`; a macro has an empty selector and its name as parameter."""

    scope: str
    selector: str
    parameter: str
    value: Any
    place: Place

    @property
    def macro(self) -> str | None:
        return None if self.selector else joined(self.scope, self.parameter)


@dataclass(frozen=True)
class Import:
    """An import statement: of `module`, which makes a name for the module `bound` (`import a.b` binds a)."""

    module: str
    bound: str
    place: Place


@dataclass
class Source:
    """The names that one file, or the command line, has for modules."""

    imports: dict[str, Import] = field(default_factory=dict)
    dynamic: bool = False


def joined(scope: str, name: str) -> str:
    return f"{scope}/{name}" if scope else name


def near(name: str, names: Iterable[str]) -> str:
    """`; did you mean a or b?` for the nearest of `names`, "" where none is near."""
    close = difflib.get_close_matches(name, sorted(set(names)), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def mentioned(value: Any) -> list[Reference | Macro]:
    """Every reference and macro in a value, at any depth."""
    if isinstance(value, Reference | Macro):
        return [value]
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list | tuple):
        return [found for item in value for found in mentioned(item)]
    return []


def rewritten(value: Any, change: Callable[[Reference], Reference]) -> Any:
    """`value` with every reference replaced by `change(reference)`."""
    if isinstance(value, Reference):
        return change(value)
    if isinstance(value, dict):
        return {rewritten(k, change): rewritten(v, change) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(rewritten(item, change) for item in value)
    return value


class Delegate(config_parser.ParserDelegate):
    """Keeps references and macros as they are written."""

    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> Reference:
        scope, _, selector = scoped_configurable_name.rpartition("/")
        return Reference(scope, selector, evaluate)

    def macro(self, macro_name: str) -> Macro:
        return Macro(macro_name)


@dataclass
class Reader:
    """Reads files and command-line overrides, following includes, in the order in which gin would bind them."""

    search_paths: Sequence[str]
    sources: list[Source] = field(default_factory=list)
    bindings: list[tuple[Source, Binding]] = field(default_factory=list)
    open_files: list[Path] = field(default_factory=list)

    def read_file(self, name: str, place: Place | None = None) -> None:
        """Raises ConfigError where `name` is not found, includes itself or is not gin."""
        path = find_file(name, self.search_paths, place)
        if path in self.open_files:
            raise (place or Place(name)).error(f"{name} includes itself")
        self.open_files.append(path)
        self.read_text(path.read_text(encoding="utf-8"), shown(path))
        self.open_files.pop()

    def read_text(self, text: str, file: str) -> None:
        source = Source()
        self.sources.append(source)
        for statement in statements(text, file):
            self.take(source, statement, file)

    def take(self, source: Source, statement: Any, file: str) -> None:
        location = statement.location
        place = Place(file, location.line_num, location.line_content.strip())
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
        """`--gin.NAME=value`, where `source` has the names that can be used."""
        place = Place(flag)
        name, equals, text = flag.removeprefix("--gin.").partition("=")
        if not (name and equals):
            raise place.error("write it as --gin.NAME=value")
        scope, selector, parameter = parsed_key(name, place)
        binding = Binding(scope, selector, parameter, override_value(text, place), place)
        if not parameter:
            binding = Binding(scope, "", selector, binding.value, place)
        self.bindings.append((source, binding))


def parsed_key(name: str, place: Place) -> tuple[str, str, str]:
    try:
        statement = next(config_parser.ConfigParser(f"{name} = 0", Delegate()))
        return statement.scope, statement.selector, statement.arg_name
    except (SyntaxError, StopIteration, AttributeError):
        raise place.error(f"{name!r} is neither a macro (NAME) nor a parameter (module.function.parameter)") from None


def override_value(text: str, place: Place) -> Any:
    """A gin value; what is none but looks like a word or a path is that string."""
    try:
        statement, *rest = list(config_parser.ConfigParser(f"X = {text}", Delegate()))
        if not rest:
            return statement.value
    except Exception:  # gin's parser and Python's tokenizer raise several kinds
        pass
    python = {"true": "True", "false": "False", "none": "None", "null": "None"}.get(text.lower())
    if python:
        raise place.error(f"write {python}, or '\"{text}\"' for the word")
    if PLAIN.fullmatch(text):
        return str(Path(text).expanduser()) if text.startswith("~") else text
    raise place.error(f"{text!r} is not a gin value; a string with such characters needs quotes: --gin.NAME=\"'...'\"")


def statements(text: str, file: str) -> list[Any]:
    """Gin's own parser on a text. Raises ConfigError with file and line where it is not gin."""
    try:
        return list(config_parser.ConfigParser(text, Delegate()))
    except SyntaxError as error:
        message, location = (*error.args, None)[:2]
        line = location[1] if location else 0
        shown_line = text.splitlines()[line - 1].strip() if 0 < line <= len(text.splitlines()) else ""
        raise Place(file, line, shown_line).error(f"not gin: {message}") from None
    except Exception as error:  # an unclosed bracket is a tokenize.TokenError, a wrong selector a ValueError
        raise ConfigError(f"{file}: not gin: {error}") from None


def find_file(name: str, search_paths: Sequence[str], place: Place | None = None) -> Path:
    """The file meant by a path or short name: `runs/pretrain.gin`, or just `pretrain` where only one file is called so.

    Looks in the working directory, then in `search_paths`, then in the packaged gin_configs/.
    Raises ConfigError with the nearest names where there is none, or more than one.
    """
    folders = [Path(), *(Path(path).expanduser() for path in search_paths), PACKAGED]
    for folder in folders:
        for candidate in (folder / name, folder / f"{name}.gin"):
            if candidate.is_file():
                return candidate.resolve()
    known = [path for folder in folders[1:] for path in gin_files(folder)]
    short = f"/{name.removesuffix('.gin')}.gin"
    matches = sorted({path for _, path in known if f"/{path}".endswith(short)})
    if len(matches) == 1:
        return next(folder / path for folder, path in known if path == matches[0]).resolve()
    refused = place.error if place else ConfigError
    if matches:
        raise refused(f"gin file {name!r} could be {', '.join(matches)}; write more of the path")
    looked = ", ".join(str(folder.resolve()) for folder in folders)
    names = [form for _, path in known for form in (path, path.rpartition("/")[2].removesuffix(".gin"))]
    raise refused(f"there is no gin file {name!r}{near(name, names)} (looked in {looked})")


@functools.cache
def gin_files(folder: Path) -> list[tuple[Path, str]]:
    """(folder, path inside it) of every gin file."""
    return [(folder, path.relative_to(folder).as_posix()) for path in sorted(folder.glob("**/*.gin"))]


def files_that_set(macro: str) -> list[str]:
    """The packaged gin files that give `macro` a value, as short names."""
    sets = re.compile(rf"^{re.escape(macro)} *=(?! *%gin\.REQUIRED)", re.MULTILINE)
    return [name for folder, name in gin_files(PACKAGED) if sets.search((folder / name).read_text(encoding="utf-8"))]


def shown(path: Path) -> str:
    """A file's name for messages: as short as it is clear."""
    for folder in (PACKAGED, Path.cwd()):
        if path.is_relative_to(folder):
            return path.relative_to(folder).as_posix()
    return str(path)

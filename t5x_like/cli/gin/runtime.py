"""Gin for the command line: flags, checks before anything is compiled, and the resolved configuration.

Files and `--gin.NAME=value` overrides are read as text (gin/source.py), and their names are resolved (gin/names.py). The last
value of every parameter is checked (gin/checks.py) and written as one gin text. Gin parses only that text, so the config.gin of
a run directory is exactly what ran.

Gin's scopes: `@train/rows.CausalLM()` is called in scope `train`. An unscoped reference among its parameters
(`cache = @token_cache.TokenCache()`) is called in that scope too and sees `train/token_cache.TokenCache.split`. A reference
with a scope is called in that scope alone, and so is a macro: `%CACHE` is evaluated without the scope in which it is used.
"""

import argparse
import copy
import functools
import inspect
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gin

from t5x_like import __version__
from t5x_like.cli.gin import settled, trust
from t5x_like.cli.gin import source as gin_source
from t5x_like.cli.gin.checks import check_macros, check_required, check_transform, check_types, without_unused
from t5x_like.cli.gin.names import Names, merge_imports, parameters
from t5x_like.cli.gin.source import Binding, ConfigError, Macro, Place, Reader, Reference, join_scope, suggest

__all__ = ["Config", "ConfigError", "add_flags", "from_flags", "parse", "parse_args"]


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds --gin_file and --gin_search_paths, and the help of --gin.NAME=value, which `parse_args` parses."""
    group = parser.add_argument_group("configuration")
    group.add_argument(
        "--gin_file",
        action="append",
        default=[],
        metavar="FILE",
        help="a gin file, by path or short name (runs/pretrain.gin, pretrain); repeatable, later files win. "
        "Gin files are code: use only those that you would run as a program",
    )
    group.add_argument(
        "--gin_search_paths",
        default="",
        metavar="A,B",
        help="folders of gin files, searched after the working directory and before the packaged files",
    )
    # For --help only: parse_args removes these flags before argparse sees them.
    group.add_argument(
        "--gin.NAME",
        action="append",
        dest="gin_overrides",
        metavar="VALUE",
        default=[],
        help="set a macro (--gin.STEPS=10) or parameter (--gin.trainer.train.steps=10); overrides all files. A path "
        "or word needs no quotes (--gin.RUN_DIR=/tmp/x)",
    )


def parse_args(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    """Parses flags with a parser that has `add_flags`; --gin.NAME=value flags become `gin_overrides`."""
    overrides = [flag for flag in argv if flag.startswith("--gin.")]
    args = parser.parse_args([flag for flag in argv if not flag.startswith("--gin.")])
    args.gin_overrides = overrides
    return args


def search_paths(args: argparse.Namespace) -> list[str]:
    """The folders of --gin_search_paths.

    Raises:
      ConfigError: one does not exist.
    """
    paths = [path for path in args.gin_search_paths.split(",") if path]
    if missing := [path for path in paths if not Path(path).expanduser().is_dir()]:
        raise ConfigError(
            f"--gin_search_paths={args.gin_search_paths}: {missing[0]} is not a folder; correct or remove it"
        )
    return paths


def from_flags(
    args: argparse.Namespace, read: Collection[str] = (), first: Sequence[str] = (), last: Sequence[str] = ()
) -> "Config":
    """The configuration of the flags of `add_flags`, with the files `first` and `last` around theirs; see `parse`.

    Relative paths are paths in the working directory.
    """
    return parse([*first, *args.gin_file, *last], args.gin_overrides, search_paths(args), read, folder=Path.cwd())


def parse(
    gin_files: Sequence[str],
    overrides: Sequence[str] = (),
    search_paths: Sequence[str] = (),
    read: Collection[str] = (),
    run: str | None = None,
    allowed: Sequence[str] = (),
    folder: Path | None = None,
) -> "Config":
    """Reads and checks gin files, then overrides (`--gin.NAME=value`), and configures gin with them.

    `read` are the macros that the command evaluates, besides those that the files use. `run` is the configuration of a run
    that is read before the files; it may name only what builds models, rows and settings, and the modules `allowed`.
    Relative paths become paths in `folder`.

    Raises:
      ConfigError: a file, module, function, parameter or macro that does not exist, a macro or override that is not used, a
        value of another type than its parameter, or a macro or parameter that is still %gin.REQUIRED.
    """
    reader = Reader(search_paths)
    if run is not None:
        reader.read_file(run, allowed=trust.consented(allowed))
    for name in gin_files:
        reader.read_file(name)
    if not reader.sources and overrides:
        raise ConfigError("there is no --gin_file; start with --gin_file=runs/pretrain.gin and files for its macros")
    names = Names()
    for source in reader.sources:
        names.import_all(source)
    command_line = merge_imports(reader.sources)
    for flag in overrides:
        reader.read_override(flag, command_line)
    bindings = [names.resolve(source, binding) for source, binding in reader.bindings]
    last = {(binding.scope, binding.selector, binding.parameter): binding for binding in bindings}
    check_macros(last.values(), bindings, read)
    check_transform(bindings, last.values())
    config = Config(names, without_unused(last.values(), read))
    check_required(config.bindings)
    check_types(last.values(), names.targets)
    if folder is not None:
        config = Config(names, settled.with_absolute_paths(config.bindings, folder))
    config.configure()
    derived = Config(names, settled.with_derived_values(config.bindings, config.evaluate))
    if derived.bindings != config.bindings:
        derived.configure()
    return derived


@dataclass(frozen=True)
class Config:
    """A checked configuration, which gin holds."""

    names: Names
    bindings: tuple[Binding, ...]

    def configure(self) -> None:
        """Makes this the configuration that gin holds."""
        gin.clear_config()
        gin.parse_config(self.resolved_config())
        gin.finalize()

    def resolved_config(self) -> str:
        """The configuration as one self-contained gin text, which gives the same configuration."""
        aliases = self.names.aliases()

        def selector(full: str) -> str:
            module, _, attributes = full.partition(":")
            return f"{aliases[module]}.{attributes}"

        def literal(value: Any) -> str:
            return repr(gin_source.map_references(value, lambda r: Reference(r.scope, selector(r.selector), r.call)))

        lines = [f"{gin_source.RESOLVED} {__version__}. As the only --gin_file it gives the same configuration."]
        lines += ["from __gin__ import dynamic_registration", ""]
        lines += [import_text(module, alias) for module, alias in aliases.items()]
        lines += ["", *sorted(f"{b.macro} = {literal(b.value)}" for b in self.bindings if b.macro)]
        groups: dict[str, list[str]] = {}
        for b in self.bindings:
            if b.selector:
                group = groups.setdefault(join_scope(b.scope, selector(b.selector)), [])
                group.append(f"  {b.parameter} = {literal(b.value)}")
        for name in sorted(groups, key=lambda name: (name.rpartition("/")[2], name)):
            lines += ["", f"{name}:", *sorted(groups[name])]
        return "\n".join(lines) + "\n"

    def bind(self, name: str) -> Callable[..., Any]:
        """Returns the function or class `name` (`trainer.train`) with its parameters bound by gin; keyword arguments override.

        Raises:
          ConfigError: no file configures `name`, or, when called, a parameter without default is not set.
        """
        full = self.find(name)

        def call(**arguments: Any) -> Any:
            self.check_complete(full, arguments)
            target = self.names.targets[full]
            builders = {key: build for key, build in value_builders(target, "").items() if key not in arguments}
            bound = [b for b in self.bindings if b.selector == full and b.parameter in builders]
            # What opens token caches comes last: other mistakes are found before anything is tokenized.
            opens = {key: self.opens_data([b for b in bound if b.parameter == key]) for key in builders}
            values = {key: builders[key]() for key in sorted(builders, key=opens.__getitem__)}
            # Without gin's wrapper, which changes the type and message of exceptions.
            return target(**values, **arguments)

        return call

    def opens_data(self, bindings: Collection[Binding]) -> bool:
        """Whether a token cache is among the references that build the values of `bindings`."""
        queue, seen = list(bindings), set()
        while queue:
            for item in gin_source.find_references(queue.pop().value):
                name = item.name if isinstance(item, Macro) else item.selector
                if name.endswith(":TokenCache"):
                    return True
                if name not in seen:
                    seen.add(name)
                    queue += [b for b in self.bindings if name in (b.macro, b.selector)]
        return False

    def check_data(self, bindings: Collection[Binding]) -> None:
        """Raises ConfigError if building the values of `bindings` may import a task module that a run may not name."""
        if self.opens_data(bindings):
            trust.check_task_modules(self.bindings)

    def evaluate(self, reference: str) -> Any:
        """Builds the value of a parameter (`trainer.train.train_rows`) or macro (`%MODEL`).

        A parameter that no file sets has its default.

        Raises:
          ConfigError: neither a file nor a default sets it.
        """
        if reference.startswith("%"):
            name = reference[1:]
            if not (bound := [b for b in self.bindings if b.macro == name]):
                raise ConfigError(f"no gin file sets {name}; give --gin.{name}=VALUE or a file that sets it")
            self.check_data(bound)
            return value_builders(gin.config.macro, name)["value"]()
        scope, _, path = reference.rpartition("/")
        selector, _, parameter = path.rpartition(".")
        full = self.find(selector)
        values = value_builders(self.names.targets[full], scope)
        if parameter in values:
            self.check_complete(full, (), only=parameter)
            self.check_data([b for b in self.bindings if b.selector == full and b.parameter == parameter])
            return values[parameter]()
        known = parameters(self.names.targets[full])
        if parameter not in known:
            raise ConfigError(f"{selector} has no parameter {parameter!r}{suggest(parameter, list(known))}")
        default = known[parameter].default
        if default is inspect.Parameter.empty:
            raise ConfigError(f"no gin file sets {reference}; give --gin.{reference}=VALUE or a file that sets it")
        return default

    def find(self, name: str) -> str:
        """The full selector of `name`.

        Raises:
          ConfigError: no file configures it, or several functions match.
        """
        matches = self.names.find_selectors(name)
        if len(matches) != 1:
            known = sorted(full.replace(":", ".") for full in self.names.targets)
            clash = f"is one of {', '.join(matches)}" if matches else f"is not in the gin files{suggest(name, known)}"
            raise ConfigError(f"{name} {clash}; give a --gin_file that configures it, such as runs/pretrain.gin")
        return matches[0]

    def check_complete(self, full: str, arguments: Collection[str], only: str | None = None) -> None:
        """Raises ConfigError if a call of `full`, or of anything built for it, lacks a parameter; `only` checks one parameter."""
        seen = set()
        queue: list[tuple[str, Collection[str], Place | None]] = [(full, arguments, None)]
        while queue:
            selector, arguments, place = queue.pop()
            bound = [b for b in self.bindings if b.selector == selector and b.parameter not in arguments]
            if selector != full or only is None:
                self.check_parameters(selector, {*arguments, *(b.parameter for b in bound)}, place)
            else:
                bound = [b for b in bound if b.parameter == only]
            for reference, where in self.called_references(bound):
                if reference.selector not in seen:
                    seen.add(reference.selector)
                    queue.append((reference.selector, (), where))

    def check_parameters(self, selector: str, present: set[str], place: Place | None) -> None:
        """Raises ConfigError if a parameter without default is not in `present`."""
        for name, parameter in parameters(self.names.targets[selector]).items():
            variadic = parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
            if parameter.default is parameter.empty and name not in present and not variadic:
                short = ".".join(selector.replace(":", ".").split(".")[-2:])
                message = (
                    f"{short} needs {name!r}, which is not set; give --gin.{short}.{name}=VALUE or a file that sets it"
                )
                raise place.error(message) if place else ConfigError(message)

    def called_references(self, bindings: Sequence[Binding]) -> Iterator[tuple[Reference, Place]]:
        """Yields the references that are called to build the values of `bindings`, also through macros."""
        queue = list(bindings)
        while queue:
            binding = queue.pop()
            for item in gin_source.find_references(binding.value):
                if isinstance(item, Macro):
                    queue += [b for b in self.bindings if b.macro == item.name]
                elif item.call:
                    yield item, binding.place


def value_builders(target: Callable, scope: str) -> dict[str, Callable[[], Any]]:
    """Functions that build the values bound to the parameters of `target` in `scope`, by parameter."""

    def build(value: Any) -> Any:
        with gin.config_scope(scope or None):
            return copy.deepcopy(value)  # gin evaluates a reference when it is copied

    with gin.config_scope(scope or None):
        values = gin.get_bindings(target, resolve_references=False)
    return {name: functools.partial(build, value) for name, value in values.items()}


def import_text(module: str, alias: str) -> str:
    """The statement that imports a module under a name."""
    parent, _, name = module.rpartition(".")
    renamed = "" if alias == name else f" as {alias}"
    return f"from {parent} import {name}{renamed}" if parent else f"import {module}{renamed}"

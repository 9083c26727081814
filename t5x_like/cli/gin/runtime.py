"""Gin for the command line: flags, every check before anything is compiled, and the resolved configuration.

Files and `--gin.NAME=value` overrides are read as text (gin/source.py), every name in them is looked up in the code it
names (gin/names.py), and what remains - the last value of every parameter - is checked (gin/checks.py) and written as one
gin text. Gin parses only that text: what is kept as config.gin in a run directory is what ran, by construction.

Scopes, as gin has them: `@train/rows.CausalLM()` is called in scope `train`, and an unscoped reference among its parameters
(`cache = @token_cache.TokenCache()`) is called in that scope too and sees `train/token_cache.TokenCache.split`. A reference
with a scope of its own leaves the scope it stands in, and so does a macro: `%CACHE` is evaluated in no scope but its own.
"""

import argparse
import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import gin

from t5x_like import __version__
from t5x_like.cli.gin import source as gin_source
from t5x_like.cli.gin.checks import check_macros, check_required
from t5x_like.cli.gin.names import Names, everything_imported, parameters
from t5x_like.cli.gin.source import Binding, ConfigError, Macro, Place, Reader, Reference, joined, near

__all__ = ["Config", "ConfigError", "add_flags", "from_flags", "parse", "parse_args"]


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds --gin_file and --gin_search_paths, and explains --gin.NAME=value, which `parse_args` understands."""
    group = parser.add_argument_group("configuration")
    group.add_argument(
        "--gin_file",
        action="append",
        default=[],
        metavar="FILE",
        help="a gin file, by path or short name (runs/pretrain.gin, pretrain); may be given several times, later wins",
    )
    group.add_argument(
        "--gin_search_paths",
        default="",
        metavar="A,B",
        help="folders where gin files are looked for after the working directory and before the packaged ones",
    )
    # Shown by --help; parse_args takes these flags out before argparse sees them.
    group.add_argument(
        "--gin.NAME",
        action="append",
        dest="gin_overrides",
        metavar="VALUE",
        default=[],
        help="sets a macro (--gin.STEPS=10) or parameter (--gin.trainer.train.steps=10); wins over every file. A path "
        "or word needs no quotes (--gin.RUN_DIR=/tmp/x)",
    )


def parse_args(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    """`parser.parse_args(argv)` for a parser with `add_flags`; the --gin.NAME=value flags are in `gin_overrides`."""
    overrides = [flag for flag in argv if flag.startswith("--gin.")]
    args = parser.parse_args([flag for flag in argv if not flag.startswith("--gin.")])
    args.gin_overrides = overrides
    return args


def from_flags(args: argparse.Namespace) -> "Config":
    """The configuration that the flags of `add_flags` ask for. Raises ConfigError."""
    search_paths = [path for path in args.gin_search_paths.split(",") if path]
    return parse(args.gin_file, args.gin_overrides, search_paths)


def parse(gin_files: Sequence[str], overrides: Sequence[str] = (), search_paths: Sequence[str] = ()) -> "Config":
    """Reads and checks gin files, then overrides (`--gin.NAME=value`), and makes gin's configuration of them.

    Raises ConfigError: a file, module, function, parameter or macro that is not there; an override that nothing reads;
    a macro or parameter that is still %gin.REQUIRED.
    """
    reader = Reader(search_paths)
    for name in gin_files:
        reader.read_file(name)
    if not gin_files and overrides:
        raise ConfigError("no --gin_file is given; start with --gin_file=runs/pretrain.gin and files for its macros")
    names = Names()
    for source in reader.sources:
        names.import_all(source)
    command_line = everything_imported(reader.sources)
    for flag in overrides:
        reader.read_override(flag, command_line)
    last = {}
    for source, binding in reader.bindings:
        resolved = names.resolve(source, binding)
        last[resolved.scope, resolved.selector, resolved.parameter] = resolved
    check_macros(last.values())
    check_required(last.values())
    config = Config(names, tuple(last.values()))
    gin.clear_config()
    gin.parse_config(config.resolved_config())
    gin.finalize()
    return config


@dataclass(frozen=True)
class Config:
    """A checked configuration, the one that gin holds."""

    names: Names
    bindings: tuple[Binding, ...]

    def resolved_config(self) -> str:
        """The whole configuration as one gin text, which needs no other file: given alone it means exactly the same."""
        aliases = self.names.aliases()

        def selector(full: str) -> str:
            module, _, attributes = full.partition(":")
            return f"{aliases[module]}.{attributes}"

        def literal(value: Any) -> str:
            return repr(gin_source.rewritten(value, lambda r: Reference(r.scope, selector(r.selector), r.call)))

        lines = [
            f"# As resolved by t5x_like {__version__}. Given as the only --gin_file, it configures the same again."
        ]
        lines += ["from __gin__ import dynamic_registration", ""]
        lines += [import_text(module, alias) for module, alias in aliases.items()]
        lines += ["", *sorted(f"{b.macro} = {literal(b.value)}" for b in self.bindings if b.macro)]
        groups: dict[str, list[str]] = {}
        for b in self.bindings:
            if b.selector:
                group = groups.setdefault(joined(b.scope, selector(b.selector)), [])
                group.append(f"  {b.parameter} = {literal(b.value)}")
        for name in sorted(groups, key=lambda name: (name.rpartition("/")[2], name)):
            lines += ["", f"{name}:", *sorted(groups[name])]
        return "\n".join(lines) + "\n"

    def configured(self, name: str) -> Callable[..., Any]:
        """The function or class `name` (`trainer.train`) that takes its parameters from gin; given ones win.

        Raises ConfigError where no file configures `name`, and, when called, where a parameter without default is set nowhere.
        """
        full = self.find(name)

        def call(**given: Any) -> Any:
            self.check_complete(full, given)
            target = self.names.targets[full]
            built = {key: build() for key, build in bound_values(target, "").items() if key not in given}
            # Not through gin's own wrapper, which would change the type and message of every exception.
            return target(**built, **given)

        return call

    def evaluate(self, reference: str) -> Any:
        """What a parameter (`trainer.train.train_rows`) or macro (`%MODEL`) is, with everything it refers to built.

        A parameter that no file sets has its default. Raises ConfigError where it has none.
        """
        if reference.startswith("%"):
            name = reference[1:]
            if not any(b.macro == name for b in self.bindings):
                raise ConfigError(f"nothing sets {name}; give --gin.{name}=VALUE or a file that sets it")
            return bound_values(gin.config.macro, name)["value"]()
        scope, _, path = reference.rpartition("/")
        selector, _, parameter = path.rpartition(".")
        full = self.find(selector)
        values = bound_values(self.names.targets[full], scope)
        if parameter in values:
            self.check_complete(full, (), only=parameter)
            return values[parameter]()
        known = parameters(self.names.targets[full])
        if parameter not in known:
            raise ConfigError(f"{selector} has no parameter {parameter!r}{near(parameter, list(known))}")
        default = known[parameter].default
        if default is inspect.Parameter.empty:
            raise ConfigError(f"nothing sets {reference}; give --gin.{reference}=VALUE or a file that sets it")
        return default

    def find(self, name: str) -> str:
        """The full selector of `name`."""
        found = self.names.matching(name)
        if len(found) != 1:
            known = sorted(full.replace(":", ".") for full in self.names.targets)
            clash = f"is one of {', '.join(found)}" if found else f"is not in the gin files{near(name, known)}"
            raise ConfigError(f"{name} {clash}; give a --gin_file that configures it, such as runs/pretrain.gin")
        return found[0]

    def check_complete(self, full: str, given: Any, only: str | None = None) -> None:
        """Refuses what would be called with a parameter missing, here or in anything that is built for it."""
        seen = set()
        queue: list[tuple[str, Any, Place | None]] = [(full, given, None)]
        while queue:
            selector, given, place = queue.pop()
            bound = [b for b in self.bindings if b.selector == selector and b.parameter not in given]
            if selector != full or only is None:
                self.check_given(selector, {*given, *(b.parameter for b in bound)}, place)
            else:
                bound = [b for b in bound if b.parameter == only]
            for reference, where in self.built(bound):
                if reference.selector not in seen:
                    seen.add(reference.selector)
                    queue.append((reference.selector, (), where))

    def check_given(self, selector: str, present: set[str], place: Place | None) -> None:
        for name, parameter in parameters(self.names.targets[selector]).items():
            variadic = parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
            if parameter.default is parameter.empty and name not in present and not variadic:
                short = ".".join(selector.replace(":", ".").split(".")[-2:])
                message = (
                    f"{short} needs {name!r}, which nothing sets; give --gin.{short}.{name}=VALUE or a file that does"
                )
                raise place.error(message) if place else ConfigError(message)

    def built(self, bindings: Sequence[Binding]) -> Iterator[tuple[Reference, Place]]:
        """The references that are called to make the values of `bindings`, looking through macros."""
        queue = list(bindings)
        while queue:
            binding = queue.pop()
            for item in gin_source.mentioned(binding.value):
                if isinstance(item, Macro):
                    queue += [b for b in self.bindings if b.macro == item.name]
                elif item.call:
                    yield item, binding.place


def bound_values(target: Callable, scope: str) -> dict[str, Callable[[], Any]]:
    """Functions that build the values bound to the parameters of `target` in `scope`, as gin would for a call."""

    def build(value: Any) -> Any:
        with gin.config_scope(scope or None):
            return copy.deepcopy(value)  # gin evaluates a reference when it is copied

    with gin.config_scope(scope or None):
        values = gin.get_bindings(target, resolve_references=False)
    return {name: lambda value=value: build(value) for name, value in values.items()}


def import_text(module: str, alias: str) -> str:
    parent, _, name = module.rpartition(".")
    renamed = "" if alias == name else f" as {alias}"
    return f"from {parent} import {name}{renamed}" if parent else f"import {module}{renamed}"

"""The program `t5x_like`: imports the module of a command and runs its `main`."""

import ast
import difflib
import importlib
import os
import platform
import re
import select
import shlex
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path

from t5x_like import __version__, interrupts, locks
from t5x_like.cli.gin.runtime import ConfigError

# The module of each command, with a function `main(argv)`; the first line of its docstring is its help.
COMMANDS = {
    "train": "t5x_like.cli.train",
    "eval": "t5x_like.cli.evaluation.eval",
    "infer": "t5x_like.cli.infer",
    "score": "t5x_like.cli.score",
    "export": "t5x_like.cli.export",
    "serve": "t5x_like.cli.serve",
    "chat": "t5x_like.cli.dialog.chat",
    "cache": "t5x_like.cli.data.cache",
    "clean": "t5x_like.cli.data.clean",
    "info": "t5x_like.cli.info",
    "hf": "t5x_like.cli.hf",
    "merge": "t5x_like.cli.tuning.merge",
    "tokenizer": "t5x_like.cli.data.tokenizer",
    "self_instruct": "t5x_like.cli.data.self_instruct",
    "quickstart": "t5x_like.cli.quickstart",
    "sweep": "t5x_like.cli.sweep",
    "fit": "t5x_like.cli.forecasting.fit",
    "predict": "t5x_like.cli.forecasting.predict",
    "plan": "t5x_like.cli.forecasting.plan",
    "register": "t5x_like.cli.forecasting.register",
    "verify": "t5x_like.cli.forecasting.verify",
    "report": "t5x_like.cli.forecasting.report",
}

OUTPUT_CLOSED = 128 + signal.SIGPIPE
INTERNAL = (RecursionError, NotImplementedError)  # kinds of RuntimeError that no check raises

EXAMPLE = """\
Example:
  t5x_like train --gin_file=sizes/llama/tiny.gin --gin_file=tasks/python_source_bytes.gin \\
    --gin_file=objectives/causal_lm.gin --gin_file=optimizers/adamw.gin --gin_file=runs/pretrain.gin \\
    --gin.RUN_DIR=/tmp/llama_tiny --gin.STEPS=100

`t5x_like COMMAND --help` lists the flags of a command."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command in `argv` (default: sys.argv) and returns the exit code.

    0 is success, 1 work that remains, 2 an error that the user can fix, 70 an internal error, 130 an interrupt by Ctrl-C, 141 one
    because nobody reads the output any more, and 143 one by SIGTERM.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    search_working_directory()
    warnings.formatwarning = format_warning
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(overview())
        return 0 if argv else 2
    name, *rest = argv
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=2, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else "t5x_like --help lists them"
        return print_error(f"there is no command {name!r} (commands: {', '.join(COMMANDS)}); {hint}")
    try:
        with interrupts.program():
            code = importlib.import_module(COMMANDS[name]).main(rest) or 0
            sys.stdout.flush()
            return code
    except interrupts.Interrupted as interrupt:
        print(f"t5x_like: {str(interrupt) or 'interrupted'}", file=sys.stderr)
        return interrupt.exit_code
    except Exception as error:
        if isinstance(error, BrokenPipeError) and is_output_closed():
            return OUTPUT_CLOSED
        if os.environ.get("T5X_LIKE_TRACEBACK"):
            raise
        if isinstance(error, INTERNAL) or not isinstance(error, ValueError | OSError | RuntimeError):
            return report_internal_error(argv, error)
        clear = isinstance(error, ConfigError | locks.LockedError)
        hint = "" if clear else "\n(T5X_LIKE_TRACEBACK=1 shows where this was raised)"
        return print_error(f"{message(error)}{hint}")


def format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """A warning as one line; those of other kinds than UserWarning, which libraries give, with their place."""
    place = "" if category is UserWarning else f"{filename}:{lineno}: {category.__name__}: "
    return f"t5x_like: warning: {place}{message}\n"


def is_output_closed() -> bool:
    """Whether the reader of standard output has ended, as `head` does; what is left of the output is then dropped."""
    try:
        output = sys.stdout.fileno()
    except OSError:  # a stream that has no file, such as a notebook's
        return False
    poll = select.poll()
    poll.register(output, 0)
    if not any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    return True


def search_working_directory() -> None:
    """Lets the user's modules in the working directory be imported, unless an installed module has the same name.

    `python -m t5x_like` searches it anyway, an installed `t5x_like` would not.
    """
    here = os.getcwd()
    if not sys.flags.safe_path and here not in map(os.path.abspath, sys.path):
        sys.path.append(here)


def print_error(message: str) -> int:
    """Prints an error and returns the exit code 2."""
    print(f"t5x_like: error: {message}", file=sys.stderr)
    return 2


def message(error: Exception) -> str:
    """The text of an exception, without the lines that gin adds, which have addresses of functions in memory."""
    return re.sub(r"\n  In call to configurable .*", "", str(error))


def report_internal_error(argv: Sequence[str], error: Exception) -> int:
    """Writes the traceback of an unexpected exception to a log, prints how to report it, and returns the exit code 70."""
    from t5x_like.data.cache.sources import default_root
    from t5x_like.data.cache.token_cache import package_version

    names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "seqio", "tensorflow")
    versions = ", ".join(f"{name} {package_version(name)}" for name in names)
    facts = f"t5x_like {__version__}, Python {sys.version}, {platform.platform()}\n{versions}"
    text = f"t5x_like {shlex.join(argv)}\n{facts}\n\n{''.join(traceback.format_exception(error))}"
    name = f"t5x_like-error-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    for folder in (default_root() / "errors", Path(tempfile.gettempdir())):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8", errors="backslashreplace")
            break
        except OSError:
            continue
    summary = " ".join(f"{type(error).__name__}: {message(error)}".split())[:300]
    print_error(
        f"internal error: {summary}\nThis is a defect of t5x_like. The traceback is in {folder / name}; please report it "
        "as an issue of the repository, with that file"
    )
    return 70


def overview() -> str:
    """The text of `t5x_like --help`."""
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:<{width}}{summary(name)}" for name in COMMANDS]
    return "\n".join(["usage: t5x_like COMMAND [flags]", "", "Commands:", *lines, "", EXAMPLE])


def summary(name: str) -> str:
    """The first line of a command's docstring, read without importing it (importing would cost seconds of JAX)."""
    source = Path(__file__).parent.joinpath(*COMMANDS[name].split(".")[2:]).with_suffix(".py")
    text = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8")))
    return text.splitlines()[0] if text else ""


if __name__ == "__main__":
    sys.exit(main())

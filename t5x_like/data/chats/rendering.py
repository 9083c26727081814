"""Renders chat templates in a process with limits of time, memory and output, because templates are programs.

A template comes with a tokenizer, from anywhere. Jinja's sandbox keeps it from files and the network, but not from endless loops
and huge texts. This file is the module that asks, and the program that answers, which imports only Jinja.
"""

import contextlib
import dataclasses
import datetime
import functools
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Template
    from jinja2.nodes import Node
    from jinja2.parser import Parser

SECONDS = 10.0  # for one rendering
START_SECONDS = 60.0
CHARACTERS = 20_000_000  # of a rendered text
BYTES = 2**30  # of memory


def render(template: str, marks: tuple[str, str], variables: Mapping[str, Any]) -> str:
    """The text of a template, with `marks` around the content of {% generation %} blocks.

    Raises:
      ValueError: the template fails, or needs more than SECONDS, CHARACTERS or BYTES; or a variable is not JSON.
    """
    try:
        request = json.dumps({"template": template, "marks": marks, "variables": variables})
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"they are not JSON: {error}") from error
    reply = renderer(os.getpid()).ask(request.encode())
    if "error" in reply:
        raise ValueError(reply["error"])
    return reply["text"]


@functools.lru_cache(maxsize=1)
def renderer(process_id: int) -> "Renderer":
    """The renderer of a process; a forked process gets its own."""
    return Renderer()


@dataclasses.dataclass
class Renderer:
    """A program that renders templates; it is started at first use, and again after it was killed."""

    program: subprocess.Popen | None = None
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)

    def ask(self, request: bytes) -> dict[str, str]:
        """The program's reply to a request, {"text": text} or {"error": message}."""
        with self.lock:
            if self.program is None:
                self.program = start()
            try:
                write_line(self.program, request)
                return json.loads(read_line(self.program, SECONDS))
            except TimeoutError:
                self.stop()
                return {"error": f"it needs more than {SECONDS:g} seconds"}
            except (EOFError, BrokenPipeError):
                self.stop()
                return {"error": f"its process ended; it may need more than {BYTES >> 20} MiB of memory"}
            except BaseException:  # Ctrl-C leaves an unread reply
                self.stop()
                raise

    def stop(self) -> None:
        """Kills the program."""
        if self.program is not None:
            self.program.kill()
            self.program.communicate()
            self.program = None


def start() -> subprocess.Popen:
    """Starts the program, which sees neither Ctrl-C nor the modules of this folder.

    Raises:
      RuntimeError: it does not answer.
    """
    command = [sys.executable, "-P", __file__]
    pipe = subprocess.PIPE
    program = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        read_line(program, START_SECONDS)
    except (TimeoutError, EOFError) as error:
        program.kill()
        raise RuntimeError(
            f"the program that renders chat templates does not start; try `{' '.join(command)} < /dev/null`"
        ) from error
    return program


def write_line(program: subprocess.Popen, line: bytes) -> None:
    """Writes a line to a program."""
    assert program.stdin is not None
    program.stdin.write(line + b"\n")
    program.stdin.flush()


def read_line(program: subprocess.Popen, seconds: float) -> bytes:
    """Reads a line of a program's output.

    Raises:
      TimeoutError: there is none within `seconds`.
      EOFError: the program has ended.
    """
    assert program.stdout is not None
    deadline, line = time.monotonic() + seconds, bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(program.stdout, selectors.EVENT_READ)
        while not line.endswith(b"\n"):
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise TimeoutError
            part = os.read(program.stdout.fileno(), 2**20)
            if not part:
                raise EOFError
            line += part
    return bytes(line)


def main() -> None:
    """Answers requests, one JSON object per line, until the input ends."""
    import jinja2.sandbox  # noqa: F401 (before memory is limited)

    with contextlib.suppress(ImportError, ValueError, OSError):  # systems without such limits
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    print(flush=True)
    for line in sys.stdin.buffer:
        signal.alarm(2 * int(SECONDS))  # ends this process if nobody is left to kill it
        print(json.dumps(answer(json.loads(line))), flush=True)
        signal.alarm(0)


def answer(request: dict[str, Any]) -> dict[str, str]:
    """The reply to a request."""
    import jinja2

    try:
        template = compile_template(request["template"], tuple(request["marks"]))
        size, parts = 0, []
        for part in template.generate(request["variables"]):
            size += len(part)
            if size > CHARACTERS:
                return {"error": f"its text is longer than {CHARACTERS} characters"}
            parts.append(part)
        return {"text": "".join(parts)}
    except MemoryError:
        return {"error": f"it needs more than {BYTES >> 20} MiB of memory"}
    except RecursionError:
        return {"error": "it calls itself too deeply"}
    except jinja2.TemplateError as error:
        return {"error": one_line(str(error))}
    except Exception as error:
        return {"error": one_line(f"{type(error).__name__}: {error}")}


def one_line(text: str) -> str:
    """The beginning of a text, without line ends."""
    return " ".join(text.split())[:500]


@functools.lru_cache(maxsize=16)
def compile_template(template: str, marks: tuple[str, str]) -> "Template":
    """Compiles a chat template as transformers does: sandboxed, whitespace around blocks trimmed, and four extensions."""
    import jinja2
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """Prints the content of {% generation %} ... {% endgeneration %}, the assistant's text, between the marks."""

        tags = {"generation"}  # noqa: RUF012 (as Jinja declares it)

        def parse(self, parser: "Parser") -> "Node":
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return jinja2.nodes.CallBlock(self.call_method("render"), [], [], body).set_lineno(line)

        def render(self, caller: Callable[[], str]) -> str:
            return caller().join(marks)

    def raise_exception(message: str) -> None:
        raise jinja2.exceptions.TemplateError(message)

    def tojson(
        value: Any,
        ensure_ascii: bool = False,
        indent: int | str | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        # Jinja's own filter escapes HTML.
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda pattern: datetime.datetime.now().strftime(pattern)
    return environment.from_string(template)


if __name__ == "__main__":
    main()

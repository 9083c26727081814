"""The tests' process: runs a problem's tests, in which the candidate is a call of the program in its own process.

Expected values, comparisons and the verdict exist only here; what comes from the program is data of builtin types. Functions
that the problem's prompt defines besides the candidate are the prompt's own, not the program's.
"""

import builtins
import json
import os
import socket
import sys
from collections.abc import Callable
from typing import Any

from t5x_like.sandbox import confinement, values
from t5x_like.sandbox.channel import Channel
from t5x_like.sandbox.program import READY

STARTED, PASSED = b"s", b"p"
SILENT = (StopIteration, StopAsyncIteration)  # would end a loop of the tests


class Failure(BaseException):
    """The program ended, or a value could not travel; not an Exception, which tests may expect."""


class Candidate:
    """Calls the program's function; `failed` remembers a Failure that the tests have caught."""

    def __init__(self, channel: Channel) -> None:
        self.channel, self.failed = channel, False

    def receive(self) -> Any:
        """Reads an answer of the program.

        Raises:
          Failure: there is none.
        """
        try:
            return self.channel.receive()
        except (EOFError, OSError, ValueError, RecursionError) as error:
            raise self.fail(str(error)) from error

    def fail(self, reason: str) -> Failure:
        """Remembers a failure and returns it."""
        self.failed = True
        return Failure(reason)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Returns what the function returns, or raises the builtin exception nearest to the one that it raises."""
        try:
            self.channel.send(values.encode([list(args), kwargs]))
            answer = self.receive()
            if "arguments" in answer:
                values.update([list(args), kwargs], values.decode(answer["arguments"]))
            if "value" in answer:
                return values.decode(answer["value"])
            name, arguments = answer["raised"]
            raised = make_error(name, values.decode(arguments))
        except Exception as error:
            raise self.fail(str(error)) from error
        raise raised


def make_error(name: str, arguments: list) -> Exception:
    """An exception of a builtin class; RuntimeError for what is none, and for those that end loops (PEP 479)."""
    kind = getattr(builtins, name, None)
    if not (isinstance(kind, type) and issubclass(kind, Exception)) or issubclass(kind, SILENT):
        return RuntimeError(*arguments)
    try:
        error = kind.__new__(kind)
    except TypeError:
        return RuntimeError(*arguments)
    error.args = tuple(arguments)
    return error


def make_namespace(problem: dict[str, str], candidate: Callable) -> dict[str, Any]:
    """The names that tests see: what the prompt imports and defines, and the candidate under its name."""
    namespace: dict[str, Any] = {"__name__": "tests"}
    for ending in ("", "\n    pass\n"):  # a prompt may end in the line of its last function
        try:
            code = compile(problem["prompt"] + ending, "prompt", "exec")
        except (SyntaxError, ValueError):
            continue
        exec(code, namespace)
        break
    namespace[problem["entry_point"]] = candidate
    return namespace


def main(descriptor: int, megabytes: int, seconds: float) -> None:
    """Judges {"prompt", "completion", "test", "entry_point"} of stdin: writes STARTED, and PASSED if the tests pass."""
    problem = json.load(sys.stdin)
    verdict = os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(null, standard)
    confinement.hide_memory()
    confinement.limit(seconds, megabytes, 0, children=True)
    candidate = Candidate(Channel(socket.socket(fileno=descriptor)))
    if candidate.receive() != READY:
        return
    os.write(verdict, STARTED)
    program = problem["prompt"] + problem["completion"] + "\n"
    candidate.channel.send({"program": program, "entry_point": problem["entry_point"]})
    if candidate.receive() != READY:
        return

    def call(*args: Any, **kwargs: Any) -> Any:
        return candidate(*args, **kwargs)

    namespace = make_namespace(problem, call)
    exec(compile(problem["test"], "tests", "exec"), namespace)
    namespace["check"](call)
    if not candidate.failed:
        os.write(verdict, PASSED)

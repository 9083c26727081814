"""The function of a program in its sandbox, seen from outside; what comes from it is data of builtin types."""

import builtins
from typing import Any

from t5x_like.sandbox import values
from t5x_like.sandbox.channel import Channel
from t5x_like.sandbox.program import READY

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

    def wait(self) -> None:
        """Waits until the process is confined, or has executed its program.

        Raises:
          Failure: it has ended.
        """
        if self.receive() != READY:
            raise self.fail("the process did not start")

    def load(self, program: str, entry_point: str) -> None:
        """Has the process execute a program that defines the function `entry_point`.

        Raises:
          Failure: the program fails.
        """
        try:
            self.channel.send({"program": program, "entry_point": entry_point})
        except (OSError, ValueError) as error:
            raise self.fail(str(error)) from error
        self.wait()

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

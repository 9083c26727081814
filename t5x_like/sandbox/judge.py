"""The tests' process: runs a problem's tests, in which the candidate is a call of the program in its own process.

Expected values, comparisons and the verdict exist only here; what comes from the program is data of builtin types. Functions
that the problem's prompt defines besides the candidate are the prompt's own, not the program's.
"""

import json
import os
import socket
import sys
from collections.abc import Callable
from typing import Any

from t5x_like.sandbox import confinement
from t5x_like.sandbox.candidate import Candidate
from t5x_like.sandbox.channel import Channel

STARTED, PASSED = b"s", b"p"


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
    candidate.wait()
    os.write(verdict, STARTED)
    candidate.load(problem["prompt"] + problem["completion"] + "\n", problem["entry_point"])

    def call(*args: Any, **kwargs: Any) -> Any:
        return candidate(*args, **kwargs)

    namespace = make_namespace(problem, call)
    exec(compile(problem["test"], "tests", "exec"), namespace)
    namespace["check"](call)
    if not candidate.failed:
        os.write(verdict, PASSED)

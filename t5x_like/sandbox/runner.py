"""Starts the program's guard and the judge, bounds their time, and ends both."""

import contextlib
import functools
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from multiprocessing.connection import wait
from pathlib import Path
from typing import IO

from t5x_like.sandbox.candidate import Candidate
from t5x_like.sandbox.channel import Channel
from t5x_like.sandbox.confinement import LINUX, MEGABYTES
from t5x_like.sandbox.judge import PASSED, STARTED

START = 60.0  # seconds for both processes to start, on a busy machine
UNLIMITED = 10**9  # seconds of processor time, where each call has its own limit
END = 5.0  # seconds for the guard to kill the program
COMMAND = """import sys
sys.path.insert(0, {root!r})
from t5x_like.sandbox import {module}
del sys.path[0]
{module}.main({arguments})"""
ROOT = str(Path(__file__).parents[2])
PROBE = {
    "prompt": "import collections, heapq, math, re, typing\n\ndef one(x):\n",
    "completion": "    import bisect, decimal, statistics, string\n    return [1]\n",
    "test": "def check(candidate):\n    assert candidate(()) == [1]\n",
    "entry_point": "one",
}
PROTECTIONS = {
    "limits of time, memory and messages": True,
    "no child processes": True,
    "a user without rights": True,
    f"own files: Python read-only and {MEGABYTES} MiB of scratch": False,
    "own processes": False,
    "no network": False,
}


class StartError(RuntimeError):
    """The processes did not start."""


def passes_tests(problem: Mapping[str, str], completion: str, seconds: float, megabytes: int, namespaces: bool) -> bool:
    """Whether the program passes the problem's tests within `seconds` and `megabytes`; see `judge`.

    Raises:
      StartError: the processes do not start.
    """
    names = ("prompt", "test", "entry_point")
    job = {"completion": completion} | {name: problem[name] for name in names}
    program_end, judge_end = socket.socketpair()
    with (
        tempfile.TemporaryDirectory() as folder,
        tempfile.TemporaryFile("w+") as task,
        tempfile.TemporaryFile("w+") as errors,
        program_end,
        judge_end,
        contextlib.ExitStack() as processes,
    ):
        json.dump(job, task)
        task.seek(0)
        guard_arguments = f"{seconds}, {megabytes}, {namespaces}"
        processes.enter_context(start("guard", guard_arguments, folder, program_end.fileno(), errors, ()))
        descriptor = judge_end.fileno()
        judge_arguments = f"{descriptor}, {megabytes}, {seconds}"
        judge = processes.enter_context(start("judge", judge_arguments, folder, task, errors, (descriptor,)))
        program_end.close()
        judge_end.close()
        if read_mark(judge, START) != STARTED:
            errors.seek(0)
            raise StartError((errors.read().strip() or "no answer").splitlines()[-1])
        return read_mark(judge, seconds) == PASSED


@contextlib.contextmanager
def run_function(
    program: str, entry_point: str, seconds: float, megabytes: int, namespaces: bool
) -> Iterator[Candidate]:
    """A function of a program in its sandbox, to be called from this process; a call takes at most `seconds`.

    Raises (also by calls):
      Failure: the program ended, took too long, or gave something else than data.
    """
    program_end, own_end = socket.socketpair()
    with (
        tempfile.TemporaryDirectory() as folder,
        tempfile.TemporaryFile("w+") as errors,
        program_end,
        own_end,
        start("guard", f"{UNLIMITED}, {megabytes}, {namespaces}", folder, program_end.fileno(), errors, ()),
    ):
        program_end.close()
        channel = Channel(own_end, START)
        candidate = Candidate(channel)
        candidate.wait()
        candidate.load(program, entry_point)
        channel.seconds = seconds
        yield candidate


@contextlib.contextmanager
def start(
    module: str, arguments: str, folder: str, stdin: IO | int, errors: IO, descriptors: tuple[int, ...]
) -> Iterator[subprocess.Popen]:
    """Starts the function main of a module of this package; at the end, ends the process."""
    process = subprocess.Popen(
        [sys.executable, "-I", "-c", COMMAND.format(root=ROOT, module=module, arguments=arguments)],
        cwd=folder,
        env={"PATH": os.defpath, "HOME": folder},
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=errors,
        pass_fds=descriptors,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(END)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdout is not None
        process.stdout.close()


def read_mark(process: subprocess.Popen, seconds: float) -> bytes:
    """The next byte that a process writes within `seconds`; empty if it ends or takes longer."""
    assert process.stdout is not None
    return os.read(process.stdout.fileno(), 1) if wait([process.stdout.fileno()], seconds) else b""


@functools.cache
def has_namespaces() -> bool:
    """Whether programs run in namespaces of their own; found out by running one.

    Raises:
      StartError: programs do not run at all.
    """
    if LINUX:
        with contextlib.suppress(StartError):
            if passes_tests(PROBE, PROBE["completion"], START, 1024, namespaces=True):
                return True
    if not passes_tests(PROBE, PROBE["completion"], START, 1024, namespaces=False):
        raise StartError(
            f"a program of one line does not run here: the system gives no namespaces, and the user nobody cannot read "
            f"{sys.base_prefix}; start as another user than root, or use a Python that every user can read"
        )
    return False


def protections() -> dict[str, bool]:
    """What protects this machine from programs: {protection: whether it is active}."""
    active = has_namespaces()
    user = active or os.geteuid() == 0
    return {name: always or active for name, always in PROTECTIONS.items()} | {"a user without rights": user}

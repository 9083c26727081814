"""The guard: confines a process, runs the program in it, and kills everything that is left when it ends or is told to stop."""

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from t5x_like.sandbox import confinement, program
from t5x_like.sandbox.channel import Channel


def main(seconds: float, megabytes: int, namespaces: bool) -> None:
    """Runs the program; stdin is the socket of the judge, the working directory an empty folder."""
    confinement.die_with_parent(signal.SIGTERM)
    confinement.adopt_orphans()
    signal.signal(signal.SIGTERM, stop)
    null = os.open(os.devnull, os.O_RDWR)
    if namespaces:
        confinement.enter_namespaces(os.getcwd())
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            run_program(null, seconds, megabytes, namespaces)
        os._exit(1)
    try:
        os.close(0)  # so that the judge notices the end of the program
        os.waitpid(child, 0)
    finally:
        kill_children(child)


def stop(number: int, frame: FrameType | None) -> None:
    """Ends the guard, and so the program."""
    sys.exit(1)


def run_program(null: int, seconds: float, megabytes: int, namespaces: bool) -> None:
    """Gives up all rights and serves the judge."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.setsid()
    connection = os.dup(0)
    for standard in range(3):
        os.dup2(null, standard)
    os.close(null)
    confinement.drop_rights(namespaces)
    confinement.die_with_parent(signal.SIGKILL)
    confinement.limit(seconds, megabytes, confinement.FILE_MEGABYTES if namespaces else 0)
    scratch = confinement.SCRATCH if namespaces else os.getcwd()
    os.environ.clear()
    os.environ.update({"PATH": os.defpath, "HOME": scratch, "TMPDIR": scratch, "OMP_NUM_THREADS": "1"})
    program.serve(Channel(socket.socket(fileno=connection)))


def kill_children(child: int) -> None:
    """Kills the program and, as their adoptive parent, all processes that descend from it."""
    while True:
        for process in {child, *list_children()}:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def list_children() -> Iterator[int]:
    """Yields this process's children; none where there is no /proc."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            if int(path.read_text().rpartition(")")[2].split()[1]) == os.getpid():
                yield int(path.parent.name)

"""Locks, so that one process at a time writes a folder or file.

A lock is a file that names its holder: host, process id and start time, and command. The holder renews the file's time every
`RENEW_SECONDS`, and removes the file at its end. A lock is stale, and is taken over, if its process has ended; on another
host, where this cannot be seen, if it was not renewed for `STALE_SECONDS`.
"""

import contextlib
import dataclasses
import datetime
import errno
import fcntl
import json
import os
import shlex
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from t5x_like.types import PathLike

RENEW_SECONDS = 5.0
STALE_SECONDS = 60.0
POLL_SECONDS = 0.5
NO_FLOCK = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)

_held: dict[str, int] = {}  # the thread that holds each lock of this process


class LockedError(RuntimeError):
    """Another process is writing here; the message names it and the remedy."""


@dataclasses.dataclass(frozen=True)
class Holder:
    """The process that holds a lock. `machine` is where its `pid` is valid: a host, its boot and its namespace of processes."""

    host: str
    machine: str
    pid: int
    started: str
    since: str
    command: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since} ({self.command})"

    @property
    def is_here(self) -> bool:
        """Whether the process runs, or ran, where this process can see it."""
        return self.machine == machine()

    @property
    def runs_here(self) -> bool:
        """Whether the process still runs; its id may have been reused."""
        return self.started == process_start(self.pid)

    @property
    def is_this_process(self) -> bool:
        """Whether it is the process that asks."""
        return self.is_here and self.pid == os.getpid() and self.runs_here


def machine() -> str:
    """Names the host, its boot and the namespace of processes: in another container the same id is another process."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return " ".join(parts)


def process_start(pid: int) -> str | None:
    """The start time of a process of this machine; None if there is no such process, or it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
        shown = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True).stdout
        state, _, start = shown.strip().partition(" ")
        return None if not start or state.startswith("Z") else start.strip()
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]


def this_process() -> Holder:
    """This process as a holder."""
    since = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
    command = " ".join(shlex.join(sys.orig_argv).split())
    command = command if len(command) <= 120 else f"{command[:120]} ..."
    return Holder(socket.gethostname(), machine(), os.getpid(), process_start(os.getpid()) or "", since, command)


def beside(path: PathLike) -> Path:
    """The lock of a single output file: a hidden file beside it, the same for every link to the file."""
    path = Path(path).resolve()
    return path.with_name(f".{path.name}.lock")


def find_holder(path: PathLike) -> Holder | None:
    """The process that holds a lock, or None."""
    path = Path(path)
    try:
        with open(path, encoding="utf-8") as file:
            holder = read(file)
            return holder if holder is not None and is_live(holder, path) else None
    except FileNotFoundError:
        return None


def read(file: TextIO) -> Holder | None:
    """The holder that a lock file names; None if it is empty or incomplete."""
    try:
        return Holder(**json.load(file))
    except (ValueError, TypeError):
        return None


def is_live(holder: Holder, path: Path) -> bool:
    """Whether the holder of a lock still runs, as far as this host can see."""
    if holder.is_this_process:
        return str(path.absolute()) in _held  # else an earlier program of this process held it, before exec
    return holder.runs_here if holder.is_here else seconds_since_renewal(path) < STALE_SECONDS


def seconds_since_renewal(path: Path) -> float:
    """The age of a lock by the clock of its file system, which several hosts share."""
    try:
        with tempfile.TemporaryFile(dir=path.parent) as probe:
            now = os.fstat(probe.fileno()).st_mtime
    except OSError:
        now = time.time()
    return now - path.stat().st_mtime


def check_free(path: PathLike, what: str) -> None:
    """Checks that nobody but this thread holds a lock; `what` names what it protects.

    Raises:
      LockedError: another process, or another thread, holds it.
    """
    holder = find_holder(path)
    if holder is not None and not held_by_this_thread(Path(path)):
        raise LockedError(refusal(path, what, holder))


def held_by_this_thread(path: Path) -> bool:
    """Whether this thread holds a lock."""
    return _held.get(str(path.absolute())) == threading.get_ident()


def refusal(path: PathLike, what: str, holder: Holder) -> str:
    """The message for a lock that another process holds."""
    stop = f"stop it (kill {holder.pid})" if holder.is_here else f"stop it on {holder.host}"
    return (
        f"{what} is in use by {holder}; wait for it, {stop}, or choose another folder or file. If that process no longer "
        f"runs, remove {path}"
    )


@contextlib.contextmanager
def hold(path: PathLike, what: str, on_wait: Callable[[Holder], None] | None = None) -> Iterator[None]:
    """Holds a lock; the thread that holds it may hold it again. Folders are created, and removed if they stay empty.

    `what` names what the lock protects. If another process holds it, `on_wait` is called once and the lock is waited for;
    without `on_wait` that is an error. A holder on another host is given up to `STALE_SECONDS` to renew the lock.

    Raises:
      LockedError: another process, or another thread, holds it.
    """
    path = Path(path).absolute()
    if held_by_this_thread(path):
        yield
        return
    created = create_folders(path.parent, what)
    try:
        take(path, what, on_wait)
        _held[str(path)], ended = threading.get_ident(), threading.Event()
        renewing = threading.Thread(target=renew, args=(path, ended), name="lock", daemon=True)
        renewing.start()
        try:
            yield
        finally:
            ended.set()
            renewing.join()
            release(path)
            del _held[str(path)]
    finally:
        with contextlib.suppress(OSError):
            for folder in created:
                folder.rmdir()


def create_folders(folder: Path, what: str) -> list[Path]:
    """Creates a folder and its parents; returns those that are new, the innermost first.

    Raises:
      PermissionError: it cannot be created.
    """
    new = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"{what}: {folder} cannot be written ({error.strerror}); choose a writable folder"
        raise PermissionError(message) from error
    return new


def take(path: Path, what: str, on_wait: Callable[[Holder], None] | None) -> None:
    """Writes this process into a lock that is free or stale.

    Raises:
      LockedError: another process holds it, and there is no `on_wait`.
    """
    first = None
    while True:
        holder = try_to_take(path)
        if holder is None:
            return
        renewed = path_time(path)
        if first is None:
            first = renewed
            if on_wait is not None:
                on_wait(holder)
        if on_wait is None and (holder.is_here or renewed != first):
            raise LockedError(refusal(path, what, holder))
        time.sleep(POLL_SECONDS)


def path_time(path: Path) -> int | None:
    """The modification time of a file in ns; None if there is none."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return None


def try_to_take(path: Path) -> Holder | None:
    """Writes this process into a lock; returns the process that holds it instead, if any."""
    with open_guarded(path) as file:
        file.seek(0)
        holder = read(file)
        if holder is not None and is_live(holder, path):
            return holder
        file.seek(0)
        file.truncate()
        file.write(json.dumps(dataclasses.asdict(this_process())) + "\n")
        return None


@contextlib.contextmanager
def open_guarded(path: Path) -> Iterator[TextIO]:
    """A lock file, open for reading and writing by one process at a time, where the file system can do that.

    Raises:
      PermissionError: the file cannot be written.
    """
    while True:
        try:
            file = open(path, "a+", encoding="utf-8")  # noqa: SIM115
        except PermissionError as error:
            raise PermissionError(f"{path} cannot be written ({error.strerror}); choose a writable folder") from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError as error:
                if error.errno not in NO_FLOCK:
                    raise
            if same_file(file, path):  # else it was removed while this process waited
                yield file
                return


def same_file(file: TextIO, path: Path) -> bool:
    """Whether an open file is still the one of this name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def renew(path: Path, ended: threading.Event) -> None:
    """Renews the time of a lock until `ended` is set."""
    while not ended.wait(RENEW_SECONDS):
        with contextlib.suppress(OSError):
            os.utime(path)


def release(path: Path) -> None:
    """Removes a lock, unless another process has taken it since."""
    if not path.exists():
        return
    with open_guarded(path) as file:
        file.seek(0)
        holder = read(file)
        if holder is not None and holder.is_this_process:
            path.unlink(missing_ok=True)

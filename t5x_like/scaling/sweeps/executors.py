"""Where the cells of a sweep run. An executor has one method, `run(jobs, watch)`; jobs are commands, longest first.

`watch()` is called now and then while jobs run. Every job trains its cell, holds the cell's lock and goes on from its
checkpoint, so it does no harm to start one twice, or again after a kill.
"""

import contextlib
import dataclasses
import glob
import os
import shlex
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

POLL_SECONDS = 0.2


@dataclasses.dataclass(frozen=True)
class Job:
    """A command that trains a cell; what it prints goes to `log`."""

    name: str
    command: Sequence[str]
    log: Path


@dataclasses.dataclass(frozen=True)
class LocalPool:
    """Processes of this machine: one on every GPU, else `processes` that share the cores evenly (None: one for a core).

    SIGTERM and Ctrl-C are handed on: cells save and stop, and the same sweep goes on from there. Where the sweep itself is
    killed, the cells that run go on to their end, and no further ones are started.
    """

    processes: int | None = None

    def run(self, jobs: Sequence[Job], watch: Callable[[], None]) -> None:
        waiting, running = deque(jobs), {}
        free = slots(self.processes, len(jobs))
        with stopped_with_us(running):
            while waiting or running:
                while waiting and free:
                    slot, job = free.pop(0), waiting.popleft()
                    running[started(job, slot)] = slot
                time.sleep(POLL_SECONDS)
                for process in [process for process in running if process.poll() is not None]:
                    free.append(running.pop(process))
                watch()


def slots(processes: int | None, jobs: int) -> list[dict[str, str]]:
    """The environment of each place where a cell may run: its GPU, or its cores as T5X_LIKE_CORES."""
    gpus = visible_gpus()
    if gpus:
        return [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in gpus[: processes or len(gpus)]]
    cores = sorted(os.sched_getaffinity(0))
    count = max(min(processes or len(cores), len(cores), jobs), 1)
    return [{"T5X_LIKE_CORES": ",".join(map(str, cores[i::count]))} for i in range(count)]


def visible_gpus() -> list[str]:
    """NVIDIA devices that processes started here may use; none where JAX is told to stay on the CPU."""
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        return []
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name]
    return [str(i) for i in range(len(glob.glob("/dev/nvidia[0-9]*")))]


def started(job: Job, environment: Mapping[str, str]) -> subprocess.Popen:
    """A process in a session of its own, so that Ctrl-C does not reach it past us."""
    with open(job.log, "a") as log:
        return subprocess.Popen(
            job.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | environment,
            start_new_session=True,
        )


@contextlib.contextmanager
def stopped_with_us(running: Mapping[subprocess.Popen, object]) -> Iterator[None]:
    """Whatever ends the sweep early ends its cells too, by SIGTERM, after which they save; SIGTERM ends the sweep."""

    def interrupt(*_):
        raise KeyboardInterrupt

    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, interrupt) if main else None
    try:
        yield
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)
        for process in running:
            process.terminate()
        for process in running:
            process.wait()


def shell(job: Job) -> str:
    """A job as a shell runs it."""
    return f"{shlex.join(job.command)} >> {shlex.quote(str(job.log))} 2>&1"


@dataclasses.dataclass(frozen=True)
class CommandList:
    """Prints the commands and runs none: for machines that this one cannot reach."""

    def run(self, jobs: Sequence[Job], watch: Callable[[], None]) -> None:
        for job in jobs:
            print(shell(job))


@dataclasses.dataclass(frozen=True)
class Slurm:
    """One SLURM job for a cell, through submitit; returns when they are queued: `--status` says how they are going.

    `parameters` are submitit's: {"slurm_partition": "gpu", "gpus_per_node": 1, "timeout_min": 60}. The folder of the sweep must
    be on a file system that all nodes share.
    """

    parameters: Mapping[str, object] = dataclasses.field(default_factory=dict)

    def run(self, jobs: Sequence[Job], watch: Callable[[], None]) -> None:
        submitit = optional("submitit")
        for job in jobs:
            executor = submitit.AutoExecutor(folder=job.log.parent / "slurm", cluster="slurm")
            executor.update_parameters(name=job.name, **self.parameters)
            queued = executor.submit(submitit.helpers.CommandFunction(["bash", "-c", f"exec {shell(job)}"]))
            print(f"{job.name}: SLURM job {queued.job_id}")


@dataclasses.dataclass(frozen=True)
class Ray:
    """A Ray task for a cell, on the cluster of `address` (None: this machine); waits for all of them."""

    address: str | None = None
    cpus: float = 1
    gpus: float = 0

    def run(self, jobs: Sequence[Job], watch: Callable[[], None]) -> None:
        ray = optional("ray")
        ray.init(address=self.address, ignore_reinit_error=True)
        remote = ray.remote(num_cpus=self.cpus, num_gpus=self.gpus)(run_job)
        pending = [remote.remote(job) for job in jobs]
        while pending:
            _, pending = ray.wait(pending, timeout=1.0)
            watch()


def run_job(job: Job) -> int:
    """Runs a job here; its exit code."""
    return started(job, {}).wait()


def optional(name: str):
    """A package that only this executor needs.

    Raises:
      RuntimeError: it is not installed.
    """
    try:
        return __import__(name)
    except ImportError as error:
        raise RuntimeError(f"this executor needs {name}: pip install {name}, or use executors.LocalPool") from error

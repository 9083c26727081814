"""Executors, which run the trials of a sweep. An executor has one method, `run(jobs, watch)`; jobs come longest first.

An executor calls `watch()` repeatedly while jobs run. A job holds the lock of its trial and resumes from its checkpoint, so
starting one twice, or again after a kill, is harmless.
"""

import contextlib
import dataclasses
import glob
import os
import shlex
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

POLL_SECONDS = 0.2


@dataclasses.dataclass(frozen=True)
class Job:
    """A command that trains a trial; its output is appended to `log`."""

    name: str
    command: Sequence[str]
    log: Path


class Executor(Protocol):
    """Runs jobs."""

    def run(self, jobs: Sequence[Job], watch: Callable[[], None]) -> None:
        """Runs or queues all jobs, and calls `watch` repeatedly while it waits for them."""
        ...


@dataclasses.dataclass(frozen=True)
class LocalPool:
    """Processes of this machine: one per GPU, or else `processes` that share the cores evenly (None: one per core).

    An interrupt is forwarded: trials save a checkpoint and stop, and the same sweep resumes them. If the sweep itself is
    killed, running trials continue to their end and no further ones start.
    """

    processes: int | None = None

    def run(self, jobs: Sequence[Job], watch: Callable[[], None]) -> None:
        """Runs all jobs, as many at a time as there are workers."""
        waiting = deque(jobs)
        running: dict[subprocess.Popen[bytes], dict[str, str]] = {}
        free = worker_environments(self.processes, len(jobs))
        with terminate_on_exit(running):
            while waiting or running:
                while waiting and free:
                    environment, job = free.pop(0), waiting.popleft()
                    running[start_process(job, environment)] = environment
                time.sleep(POLL_SECONDS)
                for process in [process for process in running if process.poll() is not None]:
                    free.append(running.pop(process))
                watch()


def worker_environments(processes: int | None, jobs: int) -> list[dict[str, str]]:
    """The environment variables of each worker: its GPU as CUDA_VISIBLE_DEVICES, or its cores as T5X_LIKE_CORES."""
    gpus = visible_gpus()
    if gpus:
        return [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in gpus[: processes or len(gpus)]]
    cores = sorted(os.sched_getaffinity(0))
    count = max(min(processes or len(cores), len(cores), jobs), 1)
    return [{"T5X_LIKE_CORES": ",".join(map(str, cores[i::count]))} for i in range(count)]


def visible_gpus() -> list[str]:
    """NVIDIA devices that processes started here may use; none if JAX_PLATFORMS is cpu."""
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        return []
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name]
    return [str(i) for i in range(len(glob.glob("/dev/nvidia[0-9]*")))]


def start_process(job: Job, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Starts a job in its own session, so that Ctrl-C reaches only this process, which forwards it."""
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
def terminate_on_exit(running: Mapping[subprocess.Popen[bytes], object]) -> Iterator[None]:
    """Sends SIGTERM to the running processes when the block ends early, and waits for them to save."""
    try:
        yield
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()


def shell_command(job: Job) -> str:
    """Returns a job as a shell command line."""
    return f"{shlex.join(job.command)} >> {shlex.quote(str(job.log))} 2>&1"


@dataclasses.dataclass(frozen=True)
class CommandList:
    """Prints the commands and runs none, for machines that this one cannot reach."""

    def run(self, jobs: Sequence[Job], watch: Callable[[], None]) -> None:
        """Prints one command per job."""
        for job in jobs:
            print(shell_command(job))


@dataclasses.dataclass(frozen=True)
class Slurm:
    """One SLURM job per trial, through submitit. Returns when the jobs are queued; `--status` shows their progress.

    `parameters` are submitit's: {"slurm_partition": "gpu", "gpus_per_node": 1, "timeout_min": 60}. The sweep's directory must
    be on a file system that all nodes share.
    """

    parameters: Mapping[str, object] = dataclasses.field(default_factory=dict)

    def run(self, jobs: Sequence[Job], watch: Callable[[], None]) -> None:
        """Queues one SLURM job per job."""
        submitit = import_optional("submitit")
        for job in jobs:
            executor = submitit.AutoExecutor(folder=job.log.parent / "slurm", cluster="slurm")
            executor.update_parameters(name=job.name, **self.parameters)
            queued = executor.submit(submitit.helpers.CommandFunction(["bash", "-c", f"exec {shell_command(job)}"]))
            print(f"{job.name}: SLURM job {queued.job_id}")


@dataclasses.dataclass(frozen=True)
class Ray:
    """A Ray task per trial, on the cluster at `address` (None: this machine); waits for all of them."""

    address: str | None = None
    cpus: float = 1
    gpus: float = 0

    def run(self, jobs: Sequence[Job], watch: Callable[[], None]) -> None:
        """Runs all jobs as Ray tasks."""
        ray = import_optional("ray")
        ray.init(address=self.address, ignore_reinit_error=True)
        remote = ray.remote(num_cpus=self.cpus, num_gpus=self.gpus)(run_job)
        pending = [remote.remote(job) for job in jobs]
        while pending:
            _, pending = ray.wait(pending, timeout=1.0)
            watch()


def run_job(job: Job) -> int:
    """Runs a job on this machine and returns its exit code."""
    return start_process(job, {}).wait()


def import_optional(name: str) -> Any:
    """Imports a package that only one executor needs.

    Raises:
      RuntimeError: the package is not installed.
    """
    try:
        return __import__(name)
    except ImportError as error:
        raise RuntimeError(f"this executor needs {name}: pip install {name}, or use executors.LocalPool") from error

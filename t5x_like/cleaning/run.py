"""A pipeline over many files by several processes; the shards are the same, byte for byte, for any number of processes.

The steps are cut at those that remember (`steps.Remembering`), which makes n + 1 passes for n of them. In a pass each input is
one task: its documents go through the steps up to the next cut, where they are put aside with their sketches. The main process
judges the sketches in the documents' order; the next pass applies the verdicts. The last one writes the shards.

What is done is kept under OUT/.work, so a run that was killed goes on where it was: no task whose result is there is done again.
"""

import concurrent.futures
import contextlib
import itertools
import json
import multiprocessing
import multiprocessing.connection
import os
import pickle
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from t5x_like.cleaning import reading, shards
from t5x_like.cleaning.identity import identity
from t5x_like.cleaning.pipeline import Candidate, Pipeline, candidate
from t5x_like.cleaning.report import Report
from t5x_like.cleaning.steps import Document, Dropped, Remembering, Step, begin

Read = Callable[[Path], Iterable[Document | Dropped]]
Progress = Callable[[int, int, str], None]  # tasks done, of how many, what is going on


@dataclass(frozen=True)
class Job:
    """What a run does. `inputs` in the documents' order; `read` must be known by name in other processes."""

    pipeline: Pipeline
    inputs: tuple[Path, ...]
    out: Path
    suffix: str = ".jsonl.zst"
    read: Read = reading.read

    @cached_property
    def cuts(self) -> list[Remembering]:
        """The steps that remember."""
        return [step for step in self.pipeline.steps if isinstance(step, Remembering)]

    @cached_property
    def stages(self) -> list[list[Step]]:
        """The steps before, between and after the cuts, ready to be called."""
        stages: list[list[Step]] = [[begin(self.pipeline.readable)]]
        for step in self.pipeline.steps:
            if isinstance(step, Remembering):
                stages.append([])
            else:
                stages[-1].append(begin(step))
        return stages

    @cached_property
    def names(self) -> list[str]:
        return shards.names(self.inputs)

    def shard(self, place: int) -> Path:
        """Where the documents kept of an input are written."""
        return self.out / f"{self.names[place]}{self.suffix}"

    def work(self, what: str, stage: int, place: int) -> Path:
        return self.out / ".work" / f"{what}{stage}" / f"{self.names[place]}.pickle"

    def identity(self) -> dict:
        """What a rerun must have in common with the run that it goes on with."""
        files = [[str(path.absolute()), (stat := path.stat()).st_size, stat.st_mtime_ns] for path in self.inputs]
        return {"pipeline": identity((self.pipeline, self.read)), "suffix": self.suffix, "inputs": files}

    def candidates(self, stage: int, place: int) -> Iterator[tuple[Candidate, Dropped | None]]:
        """The documents of an input that come to a stage, and the verdict of the cut before it where that is a drop."""
        if stage == 0:
            for position, document in enumerate(self.read(self.inputs[place])):
                yield candidate(document, position), document if isinstance(document, Dropped) else None
            return
        aside, verdicts = (shards.pickles(self.work(what, stage - 1, place)) for what in ("aside", "verdicts"))
        for found, verdict in zip(aside, verdicts, strict=True):
            cut = self.cuts[stage - 1]
            yield found, found.through([lambda document, verdict=verdict, cut=cut: cut.apply(document, verdict)])

    def kept(self, stage: int, place: int, report: Report) -> Iterator[Candidate]:
        """The documents of an input that pass a stage; the others are counted."""
        for found, dropped in self.candidates(stage, place):
            dropped = dropped or found.through(self.stages[stage])
            if dropped:
                report.add_dropped(found.document, found.characters, dropped)
            else:
                yield found

    @contextlib.contextmanager
    def taking(self, stage: int, place: int, report: Report) -> Iterator[Callable[[Candidate], None]]:
        """A function for each document that passes a stage: it is put aside with its sketch, or written at last."""
        if stage == len(self.cuts):
            with shards.documents_to(self.shard(place), self.suffix) as write:
                yield lambda found: (
                    write(found.document),
                    report.add_kept(found.document, found.characters, found.edits),
                )
            return
        aside, sketches = (shards.pickles_to(self.work(what, stage, place)) for what in ("aside", "sketches"))
        sketch = self.cuts[stage].sketch
        with aside as keep, sketches as show:
            yield lambda found: (keep(found), show((sketch(found.document), found.document["id"])))

    def do(self, stage: int, place: int) -> int:
        """One task, unless it was done: its report is written last. Returns the input's place."""
        done = self.work("report", stage, place)
        if not done.exists():
            report, passed = Report(), 0
            with self.taking(stage, place, report) as take:
                for found in self.kept(stage, place, report):
                    take(found)
                    passed += 1
            if stage == 0 and not passed and not report.read:
                report.empty_files.append(str(self.inputs[place]))
            shards.write_pickles(done, [report])
        return place

    def is_done(self, stage: int) -> bool:
        """Whether every task of a stage is."""
        return all(self.work("report", stage, place).exists() for place in range(len(self.inputs)))

    def report(self) -> Report:
        """That of all tasks, in the documents' order."""
        whole = Report()
        for stage in range(len(self.cuts) + 1):
            for place in range(len(self.inputs)):
                whole.merge(next(shards.pickles(self.work("report", stage, place))))
        return whole


def run(job: Job, workers: int = 1, progress: Progress = lambda done, total, what: None) -> Report:
    """Writes a shard for each input, report.html and report.json to `job.out`, or goes on with what is there.

    Raises:
      ValueError: workers below 1, no input, an unknown suffix, steps that other processes cannot be told of, or a folder that
        holds something else or a run of another pipeline or of other inputs.
      RuntimeError: a worker process was killed.
    """
    check(job, workers)
    finished = job.out / "report.json"
    if finished.exists() and all(job.shard(place).exists() for place in range(len(job.inputs))):
        return Report.from_json(finished)
    total, count = (len(job.cuts) + 1) * len(job.inputs), itertools.count(1)
    with processes(job, workers) as tasks:
        for stage in range(len(job.cuts) + 1):
            judge = None if stage == len(job.cuts) or job.is_done(stage + 1) else job.cuts[stage].judge()
            for place in tasks(stage):
                if judge:
                    sketches = shards.pickles(job.work("sketches", stage, place))
                    shards.write_pickles(job.work("verdicts", stage, place), (judge(*each) for each in sketches))
                progress(next(count), total, f"pass {stage + 1} of {len(job.cuts) + 1}: {job.inputs[place].name}")
            for what in ("aside", "sketches", "verdicts"):
                shutil.rmtree(job.work(what, stage - 1, 0).parent, ignore_errors=True)
    report = job.report()
    report.write(job.out)
    shutil.rmtree(job.out / ".work")
    for left in job.out.rglob(".*.partial"):  # of processes that were killed
        left.unlink()
    return report


def check(job: Job, workers: int) -> None:
    """Refuses what cannot be run, before anything is written but the run's identity."""
    if workers < 1:
        raise ValueError(f"workers={workers} is below 1; give at least 1, at most as many as there are cores")
    if not job.inputs:
        raise ValueError("inputs is empty; give at least one file")
    shards.check_suffix(job.suffix)
    if workers > 1:
        try:
            pickle.dumps(job)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise ValueError(
                f"workers={workers}: a step cannot be sent to other processes ({error}); use functions and classes of a "
                "module in place of lambdas, or workers=1"
            ) from error
    mine, path = job.identity(), job.out / "run.json"
    if path.exists():
        theirs = json.loads(path.read_text(encoding="utf-8"))
        if changed := [name for name in mine if mine[name] != theirs.get(name)]:
            raise ValueError(
                f"out={job.out} holds a run of other {' and '.join(changed)}; give another folder, or remove this one"
            )
    elif job.out.exists() and any(job.out.iterdir()):
        raise ValueError(f"out={job.out} is not empty and holds no cleaning run; give a new folder")
    else:
        with shards.whole(path) as file:
            file.write(json.dumps(mine, indent=1).encode())


Tasks = Callable[[int], Iterable[int]]  # stage -> places of the inputs, in order, as they are done


@contextlib.contextmanager
def processes(job: Job, workers: int) -> Iterator[Tasks]:
    """The tasks of a stage, done here or by `workers` processes."""
    places = range(len(job.inputs))
    if workers == 1:
        yield lambda stage: map(job.do, itertools.repeat(stage), places)
        return
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, context, set_up, (job,)) as executor:
        try:
            yield lambda stage: executor.map(do, itertools.repeat(stage), places)
        except concurrent.futures.BrokenExecutor as error:
            raise RuntimeError(
                "a worker process was killed, perhaps for want of memory; the same command with fewer workers goes on"
            ) from error
        except BaseException:
            executor.shutdown(cancel_futures=True)
            raise


_job: Job | None = None  # of a worker process


def set_up(job: Job) -> None:
    """Readies a worker process, which ends when its parent does, however that ends."""
    global _job
    _job = job
    threading.Thread(target=end_with_parent, daemon=True).start()


def end_with_parent() -> None:
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def do(stage: int, place: int) -> int:
    """A task of the worker's job."""
    return _job.do(stage, place)

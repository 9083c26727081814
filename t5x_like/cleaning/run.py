"""Runs a pipeline over many files with several processes; any number of processes writes the same shards, byte for byte.

The steps are split at the stateful ones (`steps.StatefulStep`): n of them make n + 1 passes. A pass has one task per input.
The task takes the input's documents through the steps up to the next stateful step, and sets them aside with their sketches.
The main process decides on the sketches in the order of the documents, and the next pass applies the decisions. The last pass
writes the shards.

Finished tasks are kept under OUT/.work, so a killed run resumes without repeating them. Records that cannot be read, or that make
a step fail, are listed in OUT/rejects.jsonl.
"""

import contextlib
import functools
import itertools
import json
import pickle
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from t5x_like.cleaning import reading, shards, work_files
from t5x_like.cleaning import workers as worker_processes
from t5x_like.cleaning.fingerprint import fingerprint
from t5x_like.cleaning.pipeline import Candidate, Pipeline, make_candidate
from t5x_like.cleaning.rejects import REJECTS, Losses, check_report
from t5x_like.cleaning.report import Report
from t5x_like.cleaning.steps import Document, Dropped, StatefulStep, Step, attempt, error_rule, start

LOCK = ".lock"  # of the program that runs a job; see t5x_like.locks
Read = Callable[[Path], Iterable[Document | Dropped]]
Progress = Callable[[int, int, str], None]  # finished tasks, all tasks, description of the task


@dataclass(frozen=True)
class Job:
    """A pipeline and its files. The order of `inputs` is the order of documents; other processes import `read` by name."""

    pipeline: Pipeline
    inputs: tuple[Path, ...]
    out: Path
    suffix: str = ".jsonl.zst"
    read: Read = reading.read

    @cached_property
    def stateful_steps(self) -> list[StatefulStep]:
        """The steps that separate the stages."""
        return [step for step in self.pipeline.steps if isinstance(step, StatefulStep)]

    @cached_property
    def stages(self) -> list[list[Step]]:
        """The functions of the stateless steps before, between and after the stateful ones."""
        stages: list[list[Step]] = [[start(self.pipeline.readable)]]
        for step in self.pipeline.steps:
            if isinstance(step, StatefulStep):
                stages.append([])
            else:
                stages[-1].append(start(step))
        return stages

    @cached_property
    def names(self) -> list[str]:
        """The shard name of each input."""
        return shards.name_shards(self.inputs)

    def shard_path(self, index: int) -> Path:
        """The file of the documents kept of an input."""
        return self.out / f"{self.names[index]}{self.suffix}"

    def work_path(self, kind: str, stage: int, index: int) -> Path:
        """The temporary file of one task; `kind` is aside, sketches, decisions, rejects or report."""
        return self.out / ".work" / f"{kind}{stage}" / f"{self.names[index]}.jsonl"

    def describe(self) -> dict:
        """What must be equal to resume a run: fingerprint of the pipeline, suffix, and path, size and time of each input."""
        files = [[str(path.absolute()), (stat := path.stat()).st_size, stat.st_mtime_ns] for path in self.inputs]
        return {"pipeline": fingerprint((self.pipeline, self.read)), "suffix": self.suffix, "inputs": files}

    def read_candidates(self, stage: int, index: int) -> Iterator[tuple[Candidate, Dropped | None]]:
        """The documents of an input that reach a stage; with a Dropped if the stateful step before it drops them."""
        if stage == 0:
            for position, document in enumerate(self.read(self.inputs[index])):
                yield make_candidate(document, position), document if isinstance(document, Dropped) else None
            return
        paths = [self.work_path(kind, stage - 1, index) for kind in ("aside", "decisions")]
        step = self.stateful_steps[stage - 1]
        for values, decision in zip(*map(work_files.read_values, paths), strict=True):
            candidate = Candidate(**values | {"edits": Counter(values["edits"])})
            made = attempt(error_rule(step), step.apply, candidate.document, work_files.decode(decision))
            yield candidate, candidate.take(made)

    def run_stage(self, stage: int, index: int, losses: Losses) -> Iterator[Candidate]:
        """The documents of an input that pass a stage; the others go to `losses`."""
        for candidate, dropped in self.read_candidates(stage, index):
            dropped = dropped or candidate.apply(self.stages[stage])
            if dropped:
                losses.add(candidate, dropped)
            else:
                yield candidate

    @contextlib.contextmanager
    def open_output(self, stage: int, index: int, losses: Losses) -> Iterator[Callable[[Candidate], None]]:
        """A function for each document that passes a stage: sets it aside with its sketch, or writes it after the last one."""
        if stage == len(self.stateful_steps):
            with shards.open_shard(self.shard_path(index), self.suffix) as write:

                def keep(candidate: Candidate) -> None:
                    line = attempt("error.format", shards.format_json_line, candidate.document)
                    if isinstance(line, Dropped):
                        losses.add(candidate, line)
                        return
                    write(line)
                    losses.report.add_kept(candidate.document, candidate.characters, candidate.edits)

                yield keep
            return
        paths = [self.work_path(kind, stage, index) for kind in ("aside", "sketches")]
        step = self.stateful_steps[stage]
        with shards.write_atomically(paths[0]) as aside, work_files.open_values(paths[1]) as write_sketch:

            def set_aside(candidate: Candidate) -> None:
                sketch = attempt(error_rule(step), step.sketch, candidate.document)
                line = attempt("error.format", shards.format_json_line, vars(candidate))
                if isinstance(sketch, Dropped):
                    losses.add(candidate, sketch)
                elif isinstance(line, Dropped):
                    losses.add(candidate, line)
                else:
                    aside.write(line)
                    write_sketch([work_files.encode(sketch), candidate.document["id"]])

            yield set_aside

    def run_task(self, stage: int, index: int) -> int:
        """Runs one task unless its report, which is written last, exists. Returns the index of the input."""
        report_path = self.work_path("report", stage, index)
        if not report_path.exists():
            report, passed = Report(), 0
            with work_files.open_values(self.work_path("rejects", stage, index)) as reject:
                losses = Losses(self.inputs[index], report, reject)
                with self.open_output(stage, index, losses) as write:
                    for candidate in self.run_stage(stage, index, losses):
                        write(candidate)
                        passed += 1
            if stage == 0 and not passed and not report.read:
                report.empty_files.append(str(self.inputs[index]))
            with work_files.open_values(report_path) as write_report:
                write_report(report.to_dict())
        return index

    def is_done(self, stage: int) -> bool:
        """Whether all tasks of a stage are finished."""
        return all(self.work_path("report", stage, index).exists() for index in range(len(self.inputs)))

    def merge_reports(self) -> Report:
        """The reports of all tasks together, in the order of documents."""
        total = Report()
        for stage in range(len(self.stateful_steps) + 1):
            for index in range(len(self.inputs)):
                total.merge(Report.from_dict(next(work_files.read_values(self.work_path("report", stage, index)))))
        return total

    def merge_rejects(self) -> Path | None:
        """Writes the rejects of all tasks to one file, in the order of inputs; None if there are none."""
        stages, indices = range(len(self.stateful_steps) + 1), range(len(self.inputs))
        paths = [self.work_path("rejects", stage, index) for index in indices for stage in stages]
        if not any(path.stat().st_size for path in paths):
            return None
        with shards.write_atomically(self.out / REJECTS) as file:
            for path in paths:
                with open(path, "rb") as part:
                    shutil.copyfileobj(part, file)
        return self.out / REJECTS


def run(job: Job, workers: int = 1, progress: Progress = lambda done, total, message: None) -> Report:
    """Writes a shard for each input, report.html and report.json to `job.out`, or resumes an interrupted run there.

    Raises:
      ValueError: workers below 1; no input; an unknown suffix; steps that cannot be pickled for other processes; an output
        folder that holds other files or a run of another pipeline or other inputs; or all records fail in the same way.
      RuntimeError: a worker process was killed.
    """
    check_job(job, workers)
    report_path = job.out / "report.json"
    if report_path.exists() and all(job.shard_path(index).exists() for index in range(len(job.inputs))):
        return Report.from_dict(json.loads(report_path.read_text(encoding="utf-8")))
    passes = len(job.stateful_steps) + 1
    total, count = passes * len(job.inputs), itertools.count(1)
    with remove_on_error(job.out), worker_processes.start(workers, job) as run_tasks:
        for stage in range(passes):
            last = stage == passes - 1
            decide = None if last or job.is_done(stage + 1) else job.stateful_steps[stage].make_decider()
            for index in run_tasks(functools.partial(run_task, stage), range(len(job.inputs))):
                if decide:
                    with work_files.open_values(job.work_path("decisions", stage, index)) as write:
                        for sketch, name in work_files.read_values(job.work_path("sketches", stage, index)):
                            write(work_files.encode(decide(work_files.decode(sketch), name)))
                progress(next(count), total, f"pass {stage + 1} of {passes}: {job.inputs[index].name}")
            for kind in ("aside", "sketches", "decisions"):
                shutil.rmtree(job.work_path(kind, stage - 1, 0).parent, ignore_errors=True)
    report = job.merge_reports()
    check_report(report)
    report.rejects_file = REJECTS if job.merge_rejects() else ""
    report.write(job.out)
    shutil.rmtree(job.out / ".work")
    remove_partial_files(job.out)
    return report


def run_task(stage: int, job: Job, index: int) -> int:
    """Runs a task of a job."""
    return job.run_task(stage, index)


@contextlib.contextmanager
def remove_on_error(out: Path) -> Iterator[None]:
    """Removes partial files if the block raises."""
    try:
        yield
    except BaseException:
        remove_partial_files(out)
        raise


def remove_partial_files(out: Path) -> None:
    """Removes what killed processes left of files; no other may write into the folder now."""
    for partial in out.rglob(".*.partial"):
        partial.unlink()


def check_job(job: Job, workers: int) -> None:
    """Raises ValueError for a job that cannot run; writes OUT/run.json if the folder is new."""
    if workers < 1:
        raise ValueError(f"workers={workers} is below 1; give at least 1 and at most the number of cores")
    if not job.inputs:
        raise ValueError("inputs is empty; give at least one file")
    shards.check_suffix(job.suffix)
    if workers > 1:
        try:
            pickle.dumps(job)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise ValueError(
                f"workers={workers}: a step cannot be sent to other processes ({error}); use functions and classes of a "
                "module instead of lambdas, or workers=1"
            ) from error
    description, path = job.describe(), job.out / "run.json"
    if path.exists():
        existing = json.loads(path.read_text(encoding="utf-8"))
        if changed := [name for name in description if description[name] != existing.get(name)]:
            raise ValueError(
                f"out={job.out} holds a run with other {' and '.join(changed)}; give another folder, or remove this one"
            )
    elif job.out.exists() and any(path.name != LOCK for path in job.out.iterdir()):
        raise ValueError(f"out={job.out} is not empty and holds no cleaning run; give a new folder")
    else:
        with shards.write_atomically(path) as file:
            file.write(json.dumps(description, indent=1).encode())

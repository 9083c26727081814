"""Judging beside training: answers are made on the devices between two steps, what comes after in a thread."""

import concurrent.futures
from collections.abc import Callable, Mapping
from pathlib import Path

import jax

from t5x_like.evaluation import records
from t5x_like.evaluation.task_evaluation import Asked
from t5x_like.run_dir import RunDir

Report = Callable[[int, Mapping[str, float]], None]


class Judging:
    """Has the answers of a run judged, one evaluation after the other, by a thread of the first process.

    What a dead run evaluated after `first` steps is dropped. Used as a context, which ends the thread.
    """

    def __init__(self, run_dir, first: int = 0):
        self.folder, self.active = RunDir(run_dir).evaluations, jax.process_index() == 0
        for path in self.folder.glob("*/*.json") if self.active else ():
            if path.stem.isdigit() and int(path.stem) > first:
                path.unlink()
        self.thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="judging")
        self.waiting: list[tuple[int, str, concurrent.futures.Future]] = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.thread.shutdown(cancel_futures=True)

    def done(self, step: int, asked: Asked) -> bool:
        """Whether there is a record of an evaluation."""
        return records.read(records.path_of(self.folder, asked.task, step), asked.settings) is not None

    def ask(self, step: int, asked: Asked, params) -> None:
        """Makes the answers, and has them judged; every process has to call it."""
        answers = asked(params)
        if self.active:
            self.waiting.append((step, asked.task, self.thread.submit(judged, asked, answers, step, self.folder)))

    def deliver(self, report: Report, wait: bool = False) -> dict[str, float]:
        """Reports what is ready, or waits for everything; returns all that was reported, by `task/metric`.

        A record is put in its place once it is reported: a run that dies in between judges again.

        Raises:
          RuntimeError: an evaluation that failed, by task and step.
        """
        delivered: dict[str, float] = {}
        while self.waiting and (wait or self.waiting[0][2].done()):
            step, task, job = self.waiting.pop(0)
            try:
                metrics, temporary = job.result()
            except Exception as error:
                message = f"evaluation of task {task!r} at step {step} failed: {type(error).__name__}: {error}"
                raise RuntimeError(message) from error
            named = {f"{task}/{name}": value for name, value in metrics.items()}
            report(step, named)
            records.put(temporary)
            delivered |= named
        return delivered


def judged(asked: Asked, answers, step: int, folder: Path) -> tuple[dict[str, float], Path]:
    """(metrics, the record's temporary file)."""
    record = asked.record(answers, step)
    return record["metrics"], records.prepare(records.path_of(folder, asked.task, step), record)

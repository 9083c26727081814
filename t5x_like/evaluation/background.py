"""Task evaluation during training: answers are generated between two steps, metrics are computed in a thread."""

import concurrent.futures
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax

from t5x_like.evaluation import records
from t5x_like.evaluation.task_evaluation import TaskEvaluator
from t5x_like.evaluation.task_metrics import Answer
from t5x_like.run_dir import RunDir
from t5x_like.types import Params, PathLike

Report = Callable[[int, Mapping[str, float]], None]


class BackgroundScorer:
    """Computes the metrics of a run's answers in one thread of the first process, in order of submission.

    Records that an interrupted run wrote after step `first` are deleted. Use it as a context manager, which ends the thread.
    """

    def __init__(self, run_dir: PathLike, first: int = 0) -> None:
        self.folder, self.active = RunDir(run_dir).evaluations, jax.process_index() == 0
        for path in self.folder.glob("*/*.json") if self.active else ():
            if path.stem.isdigit() and int(path.stem) > first:
                path.unlink()
        self.thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="scoring")
        self.pending: list[tuple[int, str, concurrent.futures.Future]] = []

    def __enter__(self) -> "BackgroundScorer":
        return self

    def __exit__(self, *_: object) -> None:
        self.thread.shutdown(cancel_futures=True)

    def has_record(self, step: int, evaluator: TaskEvaluator) -> bool:
        """Whether the record of an evaluation exists."""
        return records.read(records.record_path(self.folder, evaluator.task, step), evaluator.settings) is not None

    def submit(self, step: int, evaluator: TaskEvaluator, params: Params) -> None:
        """Generates the answers and queues the computation of their metrics. Every process must call it."""
        answers = evaluator(params)
        if self.active:
            job = self.thread.submit(write_record, evaluator, answers, step, self.folder)
            self.pending.append((step, evaluator.task, job))

    def collect(self, report: Report, wait: bool = False) -> dict[str, float]:
        """Reports finished evaluations, or waits for all of them; returns the reported metrics by `task/metric`.

        A record gets its final name after it is reported, so a run that is interrupted in between evaluates again.

        Raises:
          RuntimeError: an evaluation failed; the message names its task and step.
        """
        collected: dict[str, float] = {}
        while self.pending and (wait or self.pending[0][2].done()):
            step, task, job = self.pending.pop(0)
            try:
                metrics, temporary = job.result()
            except Exception as error:
                message = f"evaluation of task {task!r} at step {step} failed: {type(error).__name__}: {error}"
                raise RuntimeError(message) from error
            scalars = {f"{task}/{name}": value for name, value in metrics.items()}
            report(step, scalars)
            records.publish(temporary)
            collected |= scalars
        return collected


def write_record(
    evaluator: TaskEvaluator, answers: Sequence[Answer], step: int, folder: Path
) -> tuple[dict[str, float], Path]:
    """Computes the metrics of answers and writes the record: (metrics, path of the temporary file)."""
    record = evaluator.make_record(answers, step)
    path = records.record_path(folder, evaluator.task, step)
    return record["metrics"], records.write_temporary(path, record)

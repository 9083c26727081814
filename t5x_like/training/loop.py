"""The training loop: steps, collecting their metrics, evaluations, checkpoints and rolling back."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding

from t5x_like import batches, checkpoints, interrupts, parameters, partitioning, writers
from t5x_like.accounting import runtime_memory
from t5x_like.data.prefetch import Prefetch
from t5x_like.data.stream import Stream
from t5x_like.evaluation.background import BackgroundScorer
from t5x_like.evaluation.evaluator import Evaluator
from t5x_like.evaluation.task_evaluation import TaskEvaluator
from t5x_like.progress import Meter, ProgressBar, format_train_status
from t5x_like.training.monitor import RollbackRequested, RunMonitor
from t5x_like.training.state import TrainState
from t5x_like.types import Params


class NonFiniteLossError(RuntimeError):
    """The loss became NaN or infinite; the message names the step and the last good checkpoint."""


@dataclasses.dataclass
class Loop:
    """Runs steps one after the other; a step is dispatched before the metrics of the previous one are waited for."""

    steps: int
    log_every: int
    step_fn: Callable[..., tuple[TrainState, Mapping]]
    fetch: Callable[[int], tuple[dict, int]]
    references: Mapping[str, Params]
    monitor: RunMonitor
    meter: Meter
    writer: writers.RunWriter
    bar: ProgressBar
    checkpointer: checkpoints.Checkpointer
    scorer: BackgroundScorer
    inputs: Prefetch | None = None
    in_flight: tuple | None = None

    def feed(self, first: int) -> None:
        """Starts to prefetch the batches of the updates from `first` on; 0 is the run's first."""
        self.close()
        self.inputs = Prefetch(self.fetch, map(self.monitor.batch_of, range(first, self.steps)))

    def close(self) -> None:
        """Ends the prefetching thread."""
        if self.inputs is not None:
            self.inputs.close()

    def step(self, done: int, state: TrainState) -> TrainState:
        """Dispatches step `done` (1 is the first), then collects the metrics of the previous one."""
        assert self.inputs is not None, "call feed first"
        waited = self.inputs.waited
        batch, tokens = next(self.inputs)
        state, metrics = self.step_fn(state, batch, self.references, *self.monitor.limits())
        if jax.default_backend() != "cpu":  # whose arrays are read in place
            for value in jax.tree.leaves(metrics):
                value.copy_to_host_async()
        previous, self.in_flight = self.in_flight, (done, metrics, tokens, self.inputs.waited - waited)
        self.collect(previous)
        self.deliver()
        if done == self.bar.first + 1:
            runtime_memory.return_free_pages()  # of compilations, before the step takes as much memory as it needs
            self.flush()  # the first step is waited for, so that a user sees at once that it works
        return state

    def flush(self) -> None:
        """Waits for the step in flight, so that only finite states are evaluated or saved."""
        previous, self.in_flight = self.in_flight, None
        self.collect(previous)

    def collect(self, finished: tuple | None) -> None:
        """Waits for the metrics of a step, and logs them every `log_every` steps.

        Raises:
          NonFiniteLossError: the loss is NaN or infinite. RollbackRequested: the monitor rolls back.
        """
        if finished is None:
            return
        done, metrics, tokens, waited = finished
        values = self.monitor.collect(done, jax.tree.map(np.asarray, metrics))
        if "loss" in values and not np.isfinite(values["loss"][0]):
            raise non_finite(done, values, self.checkpointer)
        self.meter.add(values, tokens, waited)
        if done % self.log_every and done != self.steps:
            self.bar.advance(done)
            return
        count, scalars = self.meter.steps, self.meter.read()
        scalars |= self.monitor.compare(done, count, scalars.get("loss", np.nan))
        self.writer.write(done, scalars)
        self.bar.advance(done, format_train_status(scalars))

    def save(self, done: int, state: TrainState, meta: dict, results: dict[str, float]) -> None:
        """Saves a state; a thread writes it while the next steps run."""
        self.flush()
        memory = {"monitor": self.monitor.memory()}
        self.checkpointer.save(done, state.without_frozen, meta | memory, results, prune=not self.monitor.spiking)
        self.meter.restart_clock()

    def roll_back(self, request: RollbackRequested) -> None:
        """Drops the checkpoints that are too new, so that the requested one is the newest.

        Raises:
          RuntimeError: there are checkpoints, but none from before the spike.
        """
        self.in_flight = None
        self.deliver(wait=True)
        self.checkpointer.wait()
        steps = self.checkpointer.steps()
        early = [step for step in steps if step <= request.newest] or [step for step in steps if step < request.spike]
        if steps and not early:
            raise RuntimeError(
                f"the loss spiked at step {request.spike}, and no checkpoint in {self.checkpointer.directory} is older; "
                "raise Checkpointing.keep_last or lower Checkpointing.every"
            )
        self.checkpointer.drop_after(max(early, default=0))
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("the newest checkpoint is the one to restore")

    def resume(self, done: int) -> None:
        """Resumes from the restored state of step `done`, with other batches."""
        self.writer.drop_after(done)
        self.monitor.finish_rollback(done, self.checkpointer.meta.get("monitor"))
        self.meter.read()
        self.meter.restart_clock()
        self.feed(done)

    def deliver(self, wait: bool = False) -> None:
        """Reports the task evaluations that are finished; with `wait`, all of them."""
        self.scorer.collect(functools.partial(self.report, name="eval_tasks"), wait)

    def finish(self) -> None:
        """Waits until everything is evaluated and saved."""
        self.deliver(wait=True)
        self.checkpointer.wait()

    def report(self, done: int, results: Mapping[str, float], name: str = "eval") -> None:
        """Logs and prints the results of an evaluation."""
        if results:
            self.writer.write(done, {f"{name}/{metric}": value for metric, value in results.items()})
            self.bar.message(f"step {done}: " + "  ".join(f"{name}/{k} {v:.4f}" for k, v in results.items()))


@dataclasses.dataclass(frozen=True)
class Evaluations:
    """Evaluations every so many steps and at the end: losses on rows, and answers to tasks.

    `view` gives the model's parameters from a state's `params` and `frozen`.
    """

    loop: Loop
    evaluate: Evaluator | None
    tasks: Sequence[TaskEvaluator]
    every: int
    view: Callable[[Params, Params], Params]

    def due(self, done: int) -> bool:
        """Whether to evaluate after step `done`."""
        return (self.evaluate is not None or bool(self.tasks)) and (done % self.every == 0 or done == self.loop.steps)

    def __call__(self, done: int, state: TrainState) -> dict[str, float]:
        """Computes and reports the losses; answers are generated now, and scored while training continues."""
        self.loop.flush()
        params = self.view(state.params, state.frozen)
        results = {} if self.evaluate is None else self.evaluate(params)
        self.loop.report(done, results)
        for task in self.tasks:
            self.loop.scorer.submit(done, task, parameters.plain(params))
        self.loop.meter.restart_clock()
        return results

    def catch_up(self, done: int, state: TrainState) -> None:
        """Evaluates the tasks that were not scored when the run stopped after step `done`."""
        for task in self.tasks if done and self.due(done) else ():
            if not self.loop.scorer.has_record(done, task):
                self.loop.scorer.submit(done, task, parameters.plain(self.view(state.params, state.frozen)))


def run_steps(
    loop: Loop,
    evaluations: Evaluations,
    state: TrainState,
    newest_state: Callable[[], TrainState],
    meta: dict,
    checkpoint_every: int,
    signals: interrupts.Request,
) -> None:
    """Runs all steps, or until a signal is received, with the evaluations and checkpoints between them.

    When the monitor requests a rollback, the run resumes from `newest_state()`.

    Raises:
      Interrupted: a process received a signal; the state is saved.
    """
    done, stopping = int(state.step), 0
    while done < loop.steps and not stopping:
        try:
            state = loop.step(done + 1, state)
            done += 1
            stopping = any_process(signals.number, done % loop.log_every == 0)
            results = evaluations(done, state) if evaluations.due(done) else {}
            if done == loop.steps or stopping or done % checkpoint_every == 0:
                loop.save(done, state, meta, results)
        except RollbackRequested as request:
            request.__traceback__ = None
            del state  # frees the state that is given up before the other one is restored
            loop.roll_back(request)
            state = newest_state()
            done, stopping = int(state.step), 0
            loop.resume(done)
    loop.finish()
    if done < loop.steps:
        raise interrupts.Interrupted(
            stopping, f"stopped after step {done} of {loop.steps} and saved; the same command resumes the run"
        )


def any_process(number: int, ask: bool) -> int:
    """The signal that any process received, or 0; several processes communicate only if `ask`, as that takes time."""
    if jax.process_count() == 1:
        return number
    return int(np.max(multihost_utils.process_allgather(np.array(number)))) if ask else 0


def fetcher(
    stream: Stream, sharding: NamedSharding | Mapping[str, NamedSharding]
) -> Callable[[int], tuple[dict[str, Any], int]]:
    """The function `step -> (global batch on the devices, number of its tokens)`.

    A process makes only the rows of its own devices. For a single CPU device the batch stays in NumPy arrays, which the
    compiled step reads in place.
    """
    first = next(iter(sharding.values())) if isinstance(sharding, Mapping) else sharding
    in_place = [device.platform for device in first.mesh.devices.flat] == ["cpu"]

    def fetch(step: int) -> tuple[dict[str, Any], int]:
        if in_place:
            own = stream[step]
            return own, batches.real_tokens(own)
        local: list[dict[str, Any]] = []

        def rows(start: int, stop: int) -> dict:
            local.append(stream.slice(step, start, stop))
            return local[0]

        batch = partitioning.global_batch(rows, stream.batch_size, sharding)
        return batch, batches.real_tokens(local[0]) * jax.process_count()

    return fetch


def non_finite(step: int, values: Mapping[str, Any], checkpointer: checkpoints.Checkpointer) -> NonFiniteLossError:
    """The error for a non-finite loss."""
    good = checkpointer.latest_step()
    remedy = (
        f"the last good checkpoint is step {good} in {checkpointer.directory}"
        if good is not None
        else "there is no checkpoint yet; lower Checkpointing.every"
    )
    return NonFiniteLossError(
        f"the loss of step {step} is {values['loss'][0]} (gradient norm {values['grad_norm'][0]}); {remedy}. "
        "Lower the learning rate, lengthen the warm-up or clip gradients, and run the command again to resume"
    )

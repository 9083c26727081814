"""What `trainer.train` repeats: steps, the taking in of their metrics, evaluations, saving, and going back."""

import contextlib
import dataclasses
import functools
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding

from t5x_like import batches, checkpoints, partitioning, writers
from t5x_like.data.prefetch import Prefetch
from t5x_like.data.stream import Stream
from t5x_like.evaluation.background import BackgroundScorer
from t5x_like.evaluation.evaluator import Evaluator
from t5x_like.evaluation.task_evaluation import TaskEvaluator
from t5x_like.precision import Precision
from t5x_like.progress import Meter, ProgressBar, format_train_status
from t5x_like.training.monitor import GoBack, Watch
from t5x_like.training.state import TrainState


class NonFiniteLossError(RuntimeError):
    """The loss became NaN or infinite; the message names the step and the last good checkpoint."""


@dataclasses.dataclass
class Loop:
    """Steps one after the other: a step is dispatched before the metrics of the one before are waited for."""

    steps: int
    log_every: int
    step_fn: Callable
    fetch: Callable[[int], tuple[dict, int]]
    watch: Watch
    meter: Meter
    writer: writers.RunWriter
    bar: ProgressBar
    saved: checkpoints.Checkpointer
    scorer: BackgroundScorer
    inputs: Prefetch | None = None
    in_flight: tuple | None = None

    def feed(self, first: int) -> None:
        """Makes batches ahead for the updates from `first` (0 is the run's first) on."""
        self.close()
        self.inputs = Prefetch(self.fetch, map(self.watch.batch_of, range(first, self.steps)))

    def close(self) -> None:
        """Ends the thread that makes batches."""
        if self.inputs is not None:
            self.inputs.close()

    def step(self, done: int, state: TrainState) -> TrainState:
        """Dispatches the step that brings the count to `done`, then takes in the metrics of the one before."""
        waited = self.inputs.waited
        batch, tokens = next(self.inputs)
        state, metrics = self.step_fn(state, batch, *self.watch.limits())
        before, self.in_flight = self.in_flight, (done, metrics, tokens, self.inputs.waited - waited)
        self.take_in(before)
        self.deliver()
        if done == self.bar.first + 1:
            self.settle()  # the first step is waited for, to show at once that all is well
        return state

    def settle(self) -> None:
        """Waits for the step in flight: only finite states are evaluated or saved."""
        before, self.in_flight = self.in_flight, None
        self.take_in(before)

    def take_in(self, finished: tuple | None) -> None:
        """Waits for a step's metrics, refuses a loss that is no number, and writes a line when it is time."""
        if finished is None:
            return
        done, metrics, tokens, waited = finished
        values = self.watch.take_in(done, jax.device_get(metrics))
        if "loss" in values and not np.isfinite(values["loss"][0]):
            raise non_finite(done, values, self.saved)
        self.meter.add(values, tokens, waited)
        if done % self.log_every and done != self.steps:
            self.bar.advance(done)
            return
        count, scalars = self.meter.steps, self.meter.read()
        scalars |= self.watch.compare(done, count, scalars.get("loss", np.nan))
        self.writer.write(done, scalars)
        self.bar.advance(done, format_train_status(scalars))

    def save(self, done: int, state: TrainState, meta: dict, results: dict[str, float]) -> None:
        """Saves a state; what writes it does not hold up the next steps."""
        self.settle()
        self.saved.save(done, state, meta | {"watch": self.watch.memory()}, results, prune=not self.watch.spiking)
        self.meter.restart_clock()

    def go_back(self, wanted: GoBack) -> None:
        """Forgets all that came after the checkpoint that is asked for, so that it is the newest."""
        self.in_flight = None
        self.deliver(wait=True)
        self.saved.wait()
        steps = self.saved.steps()
        early = [step for step in steps if step <= wanted.newest] or [step for step in steps if step < wanted.spike]
        if steps and not early:
            raise RuntimeError(
                f"the loss spiked at step {wanted.spike}, and no checkpoint in {self.saved.directory} is older; raise keep_last "
                "or lower checkpoint_every"
            )
        self.saved.drop_after(max(early, default=0))
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("the newest checkpoint is the one to go back to")

    def went_back(self, done: int) -> None:
        """Goes on from the state of step `done`, with other batches."""
        self.writer.drop_after(done)
        self.watch.went_back(done, self.saved.meta().get("watch"))
        self.meter.read()
        self.meter.restart_clock()
        self.feed(done)

    def deliver(self, wait: bool = False) -> None:
        """Reports the tasks that are judged; `wait` for all of them."""
        self.scorer.collect(functools.partial(self.report, name="eval_tasks"), wait)

    def finish(self, done: int) -> None:
        """Waits until everything is judged and saved; says so where the run was stopped before its end."""
        self.deliver(wait=True)
        self.saved.wait()
        if done < self.steps:
            self.bar.message(f"stopped after step {done} of {self.steps} and saved; the same command goes on from here")

    def report(self, done: int, results: Mapping[str, float], name: str = "eval") -> None:
        """Writes and says what an evaluation measured."""
        if results:
            self.writer.write(done, {f"{name}/{metric}": value for metric, value in results.items()})
            self.bar.message(f"step {done}: " + "  ".join(f"{name}/{k} {v:.4f}" for k, v in results.items()))


@dataclasses.dataclass(frozen=True)
class Measures:
    """What is measured every so many steps and at the end: the losses of some rows, and the answers to tasks' questions."""

    loop: Loop
    evaluate: Evaluator | None
    asked: Sequence[TaskEvaluator]
    every: int
    precision: Precision

    def due(self, done: int) -> bool:
        return (self.evaluate is not None or bool(self.asked)) and (done % self.every == 0 or done == self.loop.steps)

    def __call__(self, done: int, state: TrainState) -> dict[str, float]:
        """The losses, reported; answers are made, to be judged while training goes on."""
        self.loop.settle()
        params = self.precision.to_compute_dtype(state.params)
        results = {} if self.evaluate is None else self.evaluate(params)
        self.loop.report(done, results)
        for one in self.asked:
            self.loop.scorer.submit(done, one, params)
        self.loop.meter.restart_clock()
        return results

    def catch_up(self, done: int, state: TrainState) -> None:
        """Asks what was not judged when the run ended after this step."""
        for one in self.asked if done and self.due(done) else ():
            if not self.loop.scorer.has_record(done, one):
                self.loop.scorer.submit(done, one, self.precision.to_compute_dtype(state.params))


def steps_of(
    loop: Loop,
    measure: Measures,
    state: TrainState,
    newest_state: Callable[[], TrainState],
    meta: dict,
    checkpoint_every: int,
    stopping: threading.Event,
) -> TrainState:
    """All steps, or those until a stop is asked for, with what is measured and saved between them.

    Where the monitor asks for it the run goes on from `newest_state()` once what came after it is forgotten.
    """
    done = int(state.step)
    while done < loop.steps:
        try:
            state = loop.step(done + 1, state)
            done += 1
            stop = agreed(stopping.is_set(), done % loop.log_every == 0)
            results = measure(done, state) if measure.due(done) else {}
            if done == loop.steps or stop or done % checkpoint_every == 0:
                loop.save(done, state, meta, results)
            if stop:
                break
        except GoBack as wanted:
            wanted.__traceback__ = state = None  # the state that is given up is not kept beside the one restored
            loop.go_back(wanted)
            state = newest_state()
            done = int(state.step)
            loop.went_back(done)
    return state


def agreed(stop: bool, ask: bool) -> bool:
    """Whether any process was asked to stop; several processes ask each other only when `ask`, for it takes time."""
    if jax.process_count() == 1:
        return stop
    return ask and bool(np.any(multihost_utils.process_allgather(np.array(stop))))


def fetcher(stream: Stream, sharding: NamedSharding) -> Callable[[int], tuple[dict, int]]:
    """`step -> (its global batch on the devices, its tokens)`; a process makes only the rows of its own devices."""

    def fetch(step: int):
        made = []

        def rows(start: int, stop: int) -> dict:
            made.append(stream.slice(step, start, stop))
            return made[0]

        batch = partitioning.global_batch(rows, stream.batch_size, sharding)
        return batch, batches.real_tokens(made[0]) * jax.process_count()

    return fetch


@contextlib.contextmanager
def stop_requested() -> Iterator[threading.Event]:
    """An event that SIGTERM sets; the handler that was there before comes back afterwards."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before = signal.signal(signal.SIGTERM, lambda *_: event.set())
    try:
        yield event
    finally:
        signal.signal(signal.SIGTERM, before)


def non_finite(step: int, values, saved) -> NonFiniteLossError:
    good = saved.latest_step()
    remedy = (
        f"the last good checkpoint is step {good} in {saved.directory}"
        if good is not None
        else "there is no checkpoint yet; lower checkpoint_every"
    )
    return NonFiniteLossError(
        f"the loss of step {step} is {values['loss'][0]} (gradient norm {values['grad_norm'][0]}); {remedy}. "
        "Lower the learning rate, lengthen the warm-up or clip gradients, and run the command again to resume"
    )

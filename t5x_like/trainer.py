"""The training loop: one function that reads from top to bottom, and the step it repeats."""

import contextlib
import dataclasses
import functools
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from t5x_like import batches, checkpoints, optimizers, partitioning, train_state, writers
from t5x_like.data import mixing
from t5x_like.data.prefetch import Prefetch
from t5x_like.data.stream import Stream
from t5x_like.evaluator import Evaluator
from t5x_like.progress import Bar, Meter, rows_text, train_text
from t5x_like.scaling import flops
from t5x_like.task_evaluation.background import Judging
from t5x_like.task_evaluation.evaluation import Asked, TaskEvaluation
from t5x_like.train_state import Precision, TrainState


class NonFiniteLossError(RuntimeError):
    """The loss became NaN or infinite; the message names the step and the last good checkpoint."""


def train(
    run_dir: str,
    model: nn.Module,
    objective: Callable,
    optimizer: optax.GradientTransformation,
    train_rows: Any,
    steps: int,
    batch_size: int,
    eval_rows: Any = None,
    microbatches: int = 1,
    mesh: Mesh | None = None,
    rules: partitioning.Rules = partitioning.RULES,
    precision: Precision = Precision(),
    seed: int = 0,
    log_every: int = 10,
    eval_every: int = 500,
    eval_batches: int | None = 20,
    evaluations: Sequence[TaskEvaluation] = (),
    checkpoint_every: int = 500,
    keep_last: int = 3,
    keep_best: int = 0,
    initial: checkpoints.Initial | None = None,
    config: str = "",
) -> dict[str, float]:
    """Trains until `steps` steps are done, going on from the newest checkpoint in `run_dir` if there is one.

    `batch_size` counts rows of the global batch; `microbatches` splits it in time without changing the result.
    `eval_rows` are evaluated every `eval_every` steps and at the end, on `eval_batches` batches (None: all). So are the
    tasks of `evaluations`: answers are made at once, judged while training goes on, and kept in run_dir/evaluations.
    `initial` names a checkpoint whose parameters a fresh run starts from; `config` is kept as run_dir/config.gin.
    SIGTERM finishes the step, saves and returns. Returns the last metrics logged.

    Raises:
      ValueError: sizes that do not fit together, before anything is compiled or written.
      NonFiniteLossError: the loss is no longer a number; RuntimeError: an evaluation failed.
    """
    mesh = partitioning.make_mesh() if mesh is None else mesh
    check(batch_size, microbatches, steps, mesh, rules, log_every, eval_every, checkpoint_every)
    example = batches.abstract(train_rows, batch_size)
    layout = train_state.layout(model, optimizer, example, mesh, rules, precision)
    check_vocabulary(layout.boxed.params, train_rows)
    asked = [Asked(one, model, mesh, rules, "decoder_prefix" in example) for one in fitting(evaluations, train_rows)]
    stream = Stream(train_rows, batch_size, seed)
    meta = {"data": stream.fingerprint}
    saved = checkpoints.Checkpointer(Path(run_dir) / "checkpoints", keep_last, keep_best)
    writers.write_run_files(run_dir, config, partitioning.describe(layout.boxed.params, mesh, rules))
    train_rows.vocabulary.save(Path(run_dir) / "vocabulary")

    step_fn = jitted_step(model, objective, optimizer, microbatches, layout, mesh, rules, precision)
    state = start(saved, layout, seed, meta, initial)
    first = int(state.step)
    evaluate = evaluator(model, objective, eval_rows, batch_size, mesh, rules, eval_batches)
    meter, explained = metered(model, layout, train_rows, batch_size, mesh)
    fetch = fetcher(stream, partitioning.batch_sharding(mesh, rules))
    with (
        partitioning.on(mesh, rules),
        writers.RunWriter(run_dir, first) as writer,
        contextlib.closing(saved),
        contextlib.closing(Prefetch(fetch, range(first, steps))) as inputs,
        Judging(run_dir, first) as judging,
        stop_requested() as stopping,
        Bar("train", steps, first) as bar,
    ):
        loop = Loop(steps, log_every, step_fn, inputs, meter, writer, bar, saved, judging)
        measure = Measures(loop, evaluate, asked, eval_every, precision)
        measure.catch_up(first, state)
        bar.message(explained)
        for done in range(first + 1, steps + 1):
            state = loop.step(done, state)
            stop = agreed(stopping.is_set(), done % log_every == 0)
            results = measure(done, state) if measure.due(done) else {}
            if done == steps or stop or done % checkpoint_every == 0:
                loop.save(done, state, meta, results)
            if stop:
                break
        loop.finish(int(state.step))
        return writer.last


@dataclasses.dataclass
class Loop:
    """Steps one after the other: a step is dispatched before the metrics of the one before are waited for."""

    steps: int
    log_every: int
    step_fn: Callable
    inputs: Prefetch
    meter: Meter
    writer: writers.RunWriter
    bar: Bar
    saved: checkpoints.Checkpointer
    judging: Judging
    in_flight: tuple | None = None

    def step(self, done: int, state: TrainState) -> TrainState:
        """Dispatches the step that brings the count to `done`, then takes in the metrics of the one before."""
        waited = self.inputs.waited
        batch, tokens = next(self.inputs)
        state, metrics = self.step_fn(state, batch)
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
        values = jax.device_get(metrics)
        if not np.isfinite(values["loss"][0]):
            raise non_finite(done, values, self.saved)
        self.meter.add(values, tokens, waited)
        if done % self.log_every and done != self.steps:
            self.bar.advance(done)
            return
        scalars = self.meter.read()
        self.writer.write(done, scalars)
        self.bar.advance(done, train_text(scalars))

    def save(self, done: int, state: TrainState, meta: dict, results: dict[str, float]) -> None:
        """Saves a state; what writes it does not hold up the next steps."""
        self.settle()
        self.saved.save(done, state, meta, results)
        self.meter.restart_clock()

    def deliver(self, wait: bool = False) -> None:
        """Reports the tasks that are judged; `wait` for all of them."""
        self.judging.deliver(functools.partial(self.report, name="eval_tasks"), wait)

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
    asked: Sequence[Asked]
    every: int
    precision: Precision

    def due(self, done: int) -> bool:
        return (self.evaluate is not None or bool(self.asked)) and (done % self.every == 0 or done == self.loop.steps)

    def __call__(self, done: int, state: TrainState) -> dict[str, float]:
        """The losses, reported; answers are made, to be judged while training goes on."""
        self.loop.settle()
        params = self.precision.used(state.params)
        results = {} if self.evaluate is None else self.evaluate(params)
        self.loop.report(done, results)
        for one in self.asked:
            self.loop.judging.ask(done, one, params)
        self.loop.meter.restart_clock()
        return results

    def catch_up(self, done: int, state: TrainState) -> None:
        """Asks what was not judged when the run ended after this step."""
        for one in self.asked if done and self.due(done) else ():
            if not self.loop.judging.done(done, one):
                self.loop.judging.ask(done, one, self.precision.used(state.params))


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


def check(batch_size, microbatches, steps, mesh, rules, log_every, eval_every, checkpoint_every) -> None:
    """Refuses numbers that cannot work, before anything is compiled or written."""
    named = {
        "steps": steps,
        "microbatches": microbatches,
        "log_every": log_every,
        "eval_every": eval_every,
        "checkpoint_every": checkpoint_every,
    }
    for name, value in named.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}={value!r} is not a positive whole number; set it to 1 or more")
    partitioning.check_batch(batch_size, microbatches, mesh, rules)


def check_vocabulary(boxed_params, rows) -> None:
    """Refuses an embedding table smaller than the ids in the data."""
    size = boxed_params["embed"]["table"].value.shape[0]
    needed = rows.vocabulary.vocab_size
    if needed > size:
        raise ValueError(
            f"the model's vocab_size={size} is smaller than the {needed} ids of the data's vocabulary; "
            f"set VOCAB_SIZE to {needed} or more"
        )


def fitting(evaluations: Sequence[TaskEvaluation], rows) -> Sequence[TaskEvaluation]:
    """The evaluations; refuses one whose tokens are not the training's, and two of one task."""
    for one in evaluations:
        ours, theirs = rows.vocabulary.fingerprint, one.cache.vocabulary.fingerprint
        if ours != theirs:
            raise ValueError(
                f"evaluations: task {one.task!r} has the vocabulary {theirs}, training's rows have {ours}; take the same "
                "task with training's vocabulary"
            )
    names = [one.task for one in evaluations]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"evaluations name {', '.join(sorted(twice))} more than once; name every task once")
    return evaluations


def metered(model: nn.Module, layout, rows, batch_size: int, mesh: Mesh) -> tuple[Meter, str]:
    """What measures the speed of steps; what becomes of the data, and how MFU is worked out."""
    row = flops.per_row(model, layout.boxed.params, rows.lengths)
    peak, source = flops.peak_per_device()
    meter = Meter(row.train * batch_size, peak * mesh.size, tuple(mixing.parts(rows)))
    about = rows_text(mixing.reports(rows))
    return meter, f"{about}\nMFU = model FLOP/s / peak; {flops.FORMULA}; peak: {source}"


def start(saved, layout, seed: int, meta: dict, initial) -> TrainState:
    """The state to go on from: the newest good checkpoint, or a fresh state, with `initial` parameters where given."""
    if saved.latest_step() is not None:
        state, stored = saved.restore(layout.abstract)
        checkpoints.check_data(stored, meta["data"], saved.directory)
        return state
    state = layout.create(seed)
    if initial is None:
        return state
    params, taken, fresh = initial.restore(state.params)
    print(
        f"{len(taken)} parameters from {initial.run_dir}, {len(fresh)} fresh{': ' if fresh else ''}{', '.join(fresh)}"
    )
    return state.replace(params=params)


def evaluator(model, objective, rows, batch_size, mesh, rules, eval_batches) -> Evaluator | None:
    if rows is None:
        return None
    return Evaluator(model.apply, objective, rows, batch_size, mesh, rules, eval_batches)


def jitted_step(model, objective, optimizer, microbatches, layout, mesh, rules, precision) -> Callable:
    """The jitted train step `(state, batch) -> (state, metrics)`; the state's buffers are reused."""

    def loss(params, batch, rng):
        total, weight, metrics = objective(model.apply, precision.used(params), batch, rng)
        return total, (weight, metrics)

    def step(state: TrainState, batch):
        rng = jax.random.fold_in(state.rng, state.step)
        grads, weight, metrics = accumulate(jax.grad(loss, has_aux=True), state.params, batch, rng, microbatches)
        grads = jax.tree.map(lambda g: g / jnp.maximum(weight, 1e-6).astype(g.dtype), grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics["grad_norm"] = (optax.tree.norm(grads), jnp.float32(1))
        rate = optimizers.learning_rate_of(opt_state)
        if rate is not None:
            metrics["learning_rate"] = (rate, jnp.float32(1))
        return TrainState(state.step + 1, params, opt_state, state.rng), metrics

    everywhere = NamedSharding(mesh, PartitionSpec())
    return jax.jit(
        step,
        donate_argnums=0,
        in_shardings=(layout.shardings, partitioning.batch_sharding(mesh, rules)),
        out_shardings=(layout.shardings, everywhere),
    )


def accumulate(grad: Callable, params, batch, rng, microbatches: int):
    """Sums of gradients, weight and metrics over `microbatches` parts of the batch: those of the whole batch."""
    if microbatches == 1:
        grads, (weight, metrics) = grad(params, batch, rng)
        return grads, weight, dict(metrics)

    def part(x_B):
        # Every device keeps its own rows: part i is rows i, i + microbatches, ...
        return jnp.moveaxis(x_B.reshape(x_B.shape[0] // microbatches, microbatches, *x_B.shape[1:]), 1, 0)

    def add(sums, inputs):
        index, micro = inputs
        grads, aux = grad(params, micro, jax.random.fold_in(rng, index))
        return jax.tree.map(jnp.add, sums, (grads, aux)), None

    parts = (jnp.arange(microbatches), jax.tree.map(part, batch))
    shapes = jax.eval_shape(grad, params, jax.tree.map(lambda x: x[0], parts[1]), rng)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    (grads, (weight, metrics)), _ = jax.lax.scan(add, zeros, parts)
    return grads, weight, dict(metrics)


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

"""The trainer: one function that reads from top to bottom."""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from t5x_like import batches, checkpoints, interrupts, locks, optimizers, parameters, partitioning, writers
from t5x_like.accounting import flops
from t5x_like.checkpoints import frozen
from t5x_like.data import mixing
from t5x_like.data.stream import Stream
from t5x_like.evaluation.background import BackgroundScorer
from t5x_like.evaluation.evaluator import Evaluator
from t5x_like.evaluation.task_evaluation import TaskEvaluation, TaskEvaluator
from t5x_like.models import ranges
from t5x_like.parameters import Freeze, Transform
from t5x_like.precision import Precision
from t5x_like.progress import Meter, ProgressBar, format_rows_report
from t5x_like.run_dir import RunDir
from t5x_like.training import contract, references, resuming
from t5x_like.training import state as train_state
from t5x_like.training.expected_loss import Curve, Run
from t5x_like.training.loop import Evaluations, Loop, fetcher, run_steps
from t5x_like.training.monitor import Monitor, RunMonitor
from t5x_like.training.state import Layout, TrainState
from t5x_like.training.step import TrainStep, jit_step
from t5x_like.types import Model, Objective, Optimizer, Params, Rows


def check_positive(**counts: int) -> None:
    """Raises ValueError for a number that is not a positive whole number, with its name."""
    for name, value in counts.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}={value!r} is not a positive whole number; set it to 1 or more")


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What is evaluated during training, every `every` steps and at the end.

    Attributes:
      rows: the rows whose loss is computed, on `batches` batches (None: all).
      tasks: tasks whose questions the model answers. Answers are generated between two steps, scored while training
        continues, and kept in RUN_DIR/evaluations.
    """

    rows: Rows | None = None
    tasks: Sequence[TaskEvaluation] = ()
    every: int = 500
    batches: int | None = 20

    def __post_init__(self) -> None:
        check_positive(**{"Evaluation.every": self.every})
        if self.batches is not None:
            check_positive(**{"Evaluation.batches": self.batches})


@dataclasses.dataclass(frozen=True)
class Checkpointing:
    """A checkpoint every `every` steps; the newest `keep_last` are kept, and the `keep_best` of lowest evaluation loss.

    `checksums` False saves and restores without the checksums of the files, which a huge state takes long to read.
    """

    every: int = 500
    keep_last: int = 3
    keep_best: int = 0
    checksums: bool = True

    def __post_init__(self) -> None:
        check_positive(**{"Checkpointing.every": self.every, "Checkpointing.keep_last": self.keep_last})
        if self.keep_best < 0:
            raise ValueError(f"Checkpointing.keep_best={self.keep_best} is negative; set it to 0 or more")


def train(
    run_dir: str,
    model: Model,
    objective: Objective,
    optimizer: Optimizer,
    train_rows: Rows,
    steps: int,
    batch_size: int,
    microbatches: int = 1,
    seed: int = 0,
    mesh: Mesh | None = None,
    rules: partitioning.Rules = partitioning.RULES,
    precision: Precision = Precision(),
    transform: Transform = Freeze(),
    initialize_from: checkpoints.InitializeFrom | None = None,
    evaluation: Evaluation = Evaluation(),
    checkpointing: Checkpointing = Checkpointing(),
    monitor: Monitor = Monitor(),
    log_every: int = 10,
    change_batch_size: bool = False,
    config: str = "",
) -> dict[str, float]:
    """Trains until `steps` steps are done, resuming from the newest checkpoint in `run_dir`. Returns the last metrics logged.

    Ctrl-C and SIGTERM finish the current step, save and raise `Interrupted`; a second Ctrl-C does not wait. One process at a
    time trains in a run directory.

    Args:
      batch_size: rows of the global batch; `microbatches` splits it in time without changing the result.
      mesh, rules: the devices (None: data parallelism over all), and the mesh axes of logical axes.
      transform: which parameters are trained (`parameters.Freeze`), or what is trained instead of them (`t5x_like.peft`).
      initialize_from: a run whose parameters a new run starts from.
      monitor: handles loss spikes, and compares the loss with an expected one.
      change_batch_size: a run may be resumed with another batch_size; it goes on at the first row that it has not read.

    Raises:
      ValueError: parts or sizes that do not fit, no reference run for the expected loss, or a run that was trained otherwise;
        before anything is compiled or written. LockedError: another process trains here.
      Interrupted: Ctrl-C or SIGTERM; the state is saved.
      NonFiniteLossError: the loss became NaN or infinite. RuntimeError: an evaluation failed.
    """
    mesh = partitioning.make_mesh() if mesh is None else mesh
    check_numbers(steps, batch_size, microbatches, log_every, seed)
    check_parts(model, objective, train_rows, evaluation.rows)
    check_batch(train_rows, batch_size, microbatches, mesh, rules)
    declared = batches.features(train_rows)
    example = batches.shapes(declared, batch_size)
    shardings = partitioning.batch_shardings(declared, mesh, rules)
    layout = train_state.layout(model, optimizer, example, mesh, rules, precision, transform)
    tasks = task_evaluators(evaluation.tasks, train_rows, model, mesh, rules, "decoder_prefix" in example)
    curve = expected_curve(monitor, model, layout, optimizer, train_rows, batch_size, steps)
    trees = references.load(objective, model, example, mesh, rules, precision)
    stream, run = Stream(train_rows, batch_size, seed), RunDir(run_dir)
    meta = resuming.describe(stream)
    keep = checkpointing.keep_last, checkpointing.keep_best, checkpointing.checksums
    with hold_lock(run), contextlib.closing(checkpoints.Checkpointer(run.checkpoints, *keep)) as checkpointer:
        newest_state = functools.partial(restore_or_create, checkpointer, layout, seed, meta, run, initialize_from)
        may_differ = [resuming.BEFORE, *(["batch_size"] if change_batch_size else [])]
        is_new, state = not checkpointer.steps(), newest_state(may_differ)
        first = steps_done(state, steps, run_dir)
        model_info = partitioning.describe(every_parameter(layout), mesh, rules)
        config = config if first < steps else ""  # a run that is done has no later settings
        writers.write_run_files(run_dir, config, model_info, train_rows.vocabulary, None if is_new else first)
        view = parameters.view(transform, precision)
        step = TrainStep(model.apply, objective, optimizer, view, microbatches, train_rows.group)
        step_fn = jit_step(step, layout, shardings, mesh, monitor.limits_updates)
        evaluate = evaluator(model, objective, evaluation, batch_size, mesh, rules, trees)
        meter, description = throughput_meter(model, layout, train_rows, batch_size, mesh)
        with (
            partitioning.on(mesh, rules),
            writers.RunWriter(run_dir, first) as writer,
            BackgroundScorer(run_dir, first) as scorer,
            interrupts.postpone() as signals,
            ProgressBar("train", steps, first) as bar,
            contextlib.ExitStack() as stack,
        ):
            watch = RunMonitor(monitor, run_dir, bar.message, curve, checkpointer.meta.get("monitor"))
            stream = resuming.continue_stream(stream, checkpointer.meta, watch.batch_of(first))
            meta |= resuming.describe(stream)
            fetch = fetcher(stream, shardings)
            loop = Loop(steps, log_every, step_fn, fetch, trees, watch, meter, writer, bar, checkpointer, scorer)
            stack.callback(loop.close)
            loop.feed(first)
            evaluations = Evaluations(loop, evaluate, tasks, evaluation.every, view)
            evaluations.catch_up(first, state)
            bar.message(description)
            run_steps(loop, evaluations, state, newest_state, meta, checkpointing.every, signals)
            return writer.last


def check_parts(model: Model, objective: Objective, train_rows: Rows, evaluation_rows: Rows | None) -> None:
    """Raises ValueError for a number out of range, or for a model, objective, rows and vocabulary that do not fit."""
    for part in (model, objective):
        ranges.check(part)
    for rows in (train_rows, evaluation_rows):
        if rows is not None:
            contract.check(model, objective, rows)
    check_vocabulary(model, train_rows)


def steps_done(state: TrainState, steps: int, run_dir: str) -> int:
    """The number of steps that a state has done. Raises ValueError if it is more than `steps`."""
    done = int(state.step)
    if done > steps:
        raise ValueError(f"steps={steps}, but {run_dir} has done {done} steps; set it to more, or use another run_dir")
    return done


@contextlib.contextmanager
def hold_lock(run: RunDir) -> Iterator[None]:
    """Holds the lock of a run directory, in the first process for all of them.

    Raises:
      LockedError: another run holds it.
    """
    refused: locks.LockedError | None = None
    with contextlib.ExitStack() as stack:
        if jax.process_index() == 0:
            try:
                stack.enter_context(locks.hold(run.lock, f"run_dir={run.path}"))
            except locks.LockedError as error:
                refused = error
        if jax.process_count() > 1 and multihost_utils.process_allgather(np.array(refused is not None)).any():
            refused = refused or locks.LockedError(f"run_dir={run.path} is in use; see the message of process 0")
        if refused:
            raise refused
        yield


def check_numbers(steps: int, batch_size: int, microbatches: int, log_every: int, seed: int) -> None:
    """Checks the numbers of a run, before its data is opened.

    Raises:
      ValueError: the one that is out of range.
    """
    check_positive(steps=steps, batch_size=batch_size, microbatches=microbatches, log_every=log_every)
    if not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise ValueError(f"seed={seed!r} is not a whole number in 0 .. 2^63 - 1")


def check_batch(rows: Rows, batch_size: int, microbatches: int, mesh: Mesh, rules: partitioning.Rules) -> None:
    """Checks that devices and microbatches divide the batch into whole groups of rows.

    Raises:
      ValueError: they do not; the message names sizes that fit.
    """
    partitioning.check_batch(batch_size, microbatches, mesh, rules)
    batches.check_groups(rows.group, batch_size, microbatches, partitioning.batch_devices(mesh, rules))


def check_vocabulary(model: Model, rows: Rows) -> None:
    """Checks that the model's embedding table has a row for every id of the data.

    Raises:
      ValueError: the table is too small.
    """
    needed = rows.vocabulary.vocab_size
    if needed > model.vocab_size:
        raise ValueError(
            f"the model's vocab_size={model.vocab_size} is smaller than the {needed} ids of the data's vocabulary; "
            f"set VOCAB_SIZE to {needed} or more"
        )


def task_evaluators(
    tasks: Sequence[TaskEvaluation], rows: Rows, model: Model, mesh: Mesh, rules: partitioning.Rules, prefix: bool
) -> list[TaskEvaluator]:
    """An evaluator for every task; `prefix` tells whether the model is trained with bidirectional prefixes.

    Raises:
      ValueError: a task with another vocabulary than the training rows, or two evaluations of one task.
    """
    for one in tasks:
        ours, theirs = rows.vocabulary.fingerprint, one.cache.vocabulary.fingerprint
        if ours != theirs:
            raise ValueError(
                f"Evaluation.tasks: task {one.task!r} has the vocabulary {theirs}, the training rows have {ours}; use the "
                "same task with the vocabulary of training"
            )
    names = [one.task for one in tasks]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"Evaluation.tasks name {', '.join(sorted(repeated))} more than once; name every task once")
    return [TaskEvaluator(task, model, mesh, rules, prefix) for task in tasks]


def throughput_meter(model: Model, layout: Layout, rows: Rows, batch_size: int, mesh: Mesh) -> tuple[Meter, str]:
    """The throughput meter, and a text on data usage and on how MFU is computed."""
    row = flops.per_row(model, layout.model, rows.lengths)
    peak, source = flops.peak_per_device()
    meter = Meter(row.train * batch_size, peak * mesh.size, tuple(mixing.components(rows)))
    usage = format_rows_report(mixing.reports(rows))
    return meter, f"{usage}\nMFU = model FLOP/s / peak; {flops.FORMULA}; peak: {source}"


def every_parameter(layout: Layout) -> Params:
    """The abstract parameters of a state, boxed: trained and frozen."""
    return parameters.union(layout.boxed.params, layout.boxed.frozen)


def expected_curve(
    monitor: Monitor, model: Model, layout: Layout, optimizer: Optimizer, rows: Rows, batch_size: int, steps: int
) -> Curve | None:
    """The expected loss of this run; None if the monitor compares with none.

    Raises:
      ValueError: the optimizer does not report its learning rates, or there is no reference run.
    """
    if monitor.expected is None:
        return None
    tokens = batch_size * sum(rows.lengths.values())
    n_params = flops.count_parameters(model, layout.model)["non_embedding"]
    rates = optimizers.learning_rates(optimizer, layout.boxed.params, steps)
    if rates is None:
        raise ValueError(
            "monitor.expected needs the learning rates of the optimizer; use an optimizer of t5x_like.optimizers"
        )
    return monitor.expected.curve(Run(n_params, tokens, rates))


def restore_or_create(
    checkpointer: checkpoints.Checkpointer,
    layout: Layout,
    seed: int,
    meta: dict,
    run: RunDir,
    initialize_from: checkpoints.InitializeFrom | None,
    may_differ: Sequence[str] = (),
) -> TrainState:
    """The newest state of a run, else a fresh one with the parameters of `initialize_from`.

    The run's data must be that of `meta` apart from what `may_differ`. If parameters are frozen, their source is recorded in
    `meta`, and so in every checkpoint.

    Raises:
      ValueError, FileNotFoundError: the run was trained on other data, or parameters that are missing or do not fit.
    """
    abstract = layout.abstract  # cached by the first call: it cannot be computed while the mesh is set
    if checkpointer.steps():
        state, stored = checkpointer.restore(abstract.without_frozen)
        resuming.check(stored, meta, checkpointer.directory, may_differ)
        if abstract.frozen:
            meta["frozen"] = stored["frozen"]
            state = state.replace(frozen=frozen.restore(run.path, meta["frozen"], abstract.frozen))
        return state
    state = layout.create(seed)
    source = None
    if initialize_from is not None:
        full, restored, fresh, folder = initialize_from.restore(layout.parameters(state), state.params)
        state = layout.with_parameters(state, full)
        trained, added = initialize_from.restore_added(state.params)
        state = state.replace(params=trained)
        print(
            f"{len(restored) + len(added)} parameters restored from {initialize_from.run_dir}, {len(fresh)} fresh"
            f"{': ' if fresh else ''}{', '.join(fresh)}"
        )
        if all(name in restored for name in checkpoints.leaves_by_name({"params": state.frozen})):
            source = folder
    if abstract.frozen:
        meta["frozen"] = frozen.describe(source or frozen.save(run.path, state.frozen), run.path)
    return state


def evaluator(
    model: Model,
    objective: Objective,
    evaluation: Evaluation,
    batch_size: int,
    mesh: Mesh,
    rules: partitioning.Rules,
    trees: Mapping[str, Params],
) -> Evaluator | None:
    """The evaluator of `evaluation.rows`; None if there are none."""
    if evaluation.rows is None:
        return None
    return Evaluator(model.apply, objective, evaluation.rows, batch_size, mesh, rules, evaluation.batches, trees)

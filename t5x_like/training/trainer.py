"""The training loop: one function that reads from top to bottom, and the step it repeats."""

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from t5x_like import batches, checkpoints, optimizers, partitioning, writers
from t5x_like.accounting import flops
from t5x_like.data import mixing
from t5x_like.data.stream import Stream
from t5x_like.evaluation.background import BackgroundScorer
from t5x_like.evaluation.evaluator import Evaluator
from t5x_like.evaluation.task_evaluation import TaskEvaluation, TaskEvaluator
from t5x_like.precision import Precision
from t5x_like.progress import Meter, ProgressBar, format_rows_report
from t5x_like.run_dir import RunDir
from t5x_like.training import state as train_state
from t5x_like.training.expected_loss import Curve, Run
from t5x_like.training.loop import Loop, Measures, fetcher, steps_of, stop_requested
from t5x_like.training.monitor import Monitor, Watch
from t5x_like.training.state import TrainState


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
    monitor: Monitor = Monitor(),
    config: str = "",
) -> dict[str, float]:
    """Trains until `steps` steps are done, going on from the newest checkpoint in `run_dir` if there is one.

    `batch_size` counts rows of the global batch; `microbatches` splits it in time without changing the result.
    `eval_rows` are evaluated every `eval_every` steps and at the end, on `eval_batches` batches (None: all). So are the
    tasks of `evaluations`: answers are made at once, judged while training goes on, and kept in run_dir/evaluations.
    `initial` names a checkpoint whose parameters a fresh run starts from; `config` is kept as run_dir/config.gin.
    `monitor` says what becomes of spikes of the loss, and compares it with what was expected.
    SIGTERM finishes the step, saves and returns. Returns the last metrics logged.

    Raises:
      ValueError: sizes that do not fit together, or nothing to expect the loss by, before anything is compiled or written.
      NonFiniteLossError: the loss is no longer a number; RuntimeError: an evaluation failed.
    """
    mesh = partitioning.make_mesh() if mesh is None else mesh
    check(batch_size, microbatches, steps, mesh, rules, log_every, eval_every, checkpoint_every)
    example = batches.abstract(train_rows, batch_size)
    layout = train_state.layout(model, optimizer, example, mesh, rules, precision)
    check_vocabulary(model, train_rows)
    asked = [
        TaskEvaluator(one, model, mesh, rules, "decoder_prefix" in example) for one in fitting(evaluations, train_rows)
    ]
    curve = expectation(monitor, model, layout, optimizer, train_rows, batch_size, steps)
    stream = Stream(train_rows, batch_size, seed)
    meta = {"data": stream.fingerprint}
    saved = checkpoints.Checkpointer(RunDir(run_dir).checkpoints, keep_last, keep_best)
    writers.write_run_files(run_dir, config, partitioning.describe(layout.boxed.params, mesh, rules))
    train_rows.vocabulary.save(RunDir(run_dir).vocabulary)

    step_fn = jitted_step(model, objective, optimizer, microbatches, layout, mesh, rules, precision, monitor.guards)
    newest_state = functools.partial(start, saved, layout, seed, meta, initial)
    state = newest_state()
    first = int(state.step)
    evaluate = evaluator(model, objective, eval_rows, batch_size, mesh, rules, eval_batches)
    meter, explained = metered(model, layout, train_rows, batch_size, mesh)
    fetch = fetcher(stream, partitioning.batch_sharding(mesh, rules))
    with (
        partitioning.on(mesh, rules),
        writers.RunWriter(run_dir, first) as writer,
        contextlib.closing(saved),
        BackgroundScorer(run_dir, first) as scorer,
        stop_requested() as stopping,
        ProgressBar("train", steps, first) as bar,
        contextlib.ExitStack() as ending,
    ):
        watch = Watch(monitor, run_dir, bar.message, curve, saved.meta().get("watch"))
        loop = Loop(steps, log_every, step_fn, fetch, watch, meter, writer, bar, saved, scorer)
        ending.callback(loop.close)
        loop.feed(first)
        measure = Measures(loop, evaluate, asked, eval_every, precision)
        measure.catch_up(first, state)
        bar.message(explained)
        state = steps_of(loop, measure, state, newest_state, meta, checkpoint_every, stopping)
        loop.finish(int(state.step))
        return writer.last


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


def check_vocabulary(model, rows) -> None:
    """Refuses an embedding table smaller than the ids in the data."""
    size, needed = model.vocab_size, rows.vocabulary.vocab_size
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
    meter = Meter(row.train * batch_size, peak * mesh.size, tuple(mixing.components(rows)))
    about = format_rows_report(mixing.reports(rows))
    return meter, f"{about}\nMFU = model FLOP/s / peak; {flops.FORMULA}; peak: {source}"


def expectation(monitor: Monitor, model, layout, optimizer, rows, batch_size: int, steps: int) -> Curve | None:
    """What the monitor expects of this run."""
    if monitor.expected is None:
        return None
    tokens = batch_size * sum(rows.lengths.values())
    n_params = flops.count_parameters(model, layout.boxed.params)["non_embedding"]
    rates = optimizers.learning_rates(optimizer, layout.boxed.params, steps)
    if rates is None:
        raise ValueError(
            "monitor.expected: the optimizer does not say its learning rates; take one of t5x_like.optimizers"
        )
    return monitor.expected.curve(Run(n_params, tokens, rates))


def start(saved, layout, seed: int, meta: dict, initial) -> TrainState:
    """The state to go on from: the newest good checkpoint, or a fresh state, with `initial` parameters where given."""
    abstract = layout.abstract  # kept from the first call, for it cannot be worked out while the mesh is set
    if saved.latest_step() is not None:
        state, stored = saved.restore(abstract)
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


def jitted_step(model, objective, optimizer, microbatches, layout, mesh, rules, precision, guarded=False) -> Callable:
    """The jitted train step `(state, batch) -> (state, metrics)`; the state's buffers are reused.

    A guarded one also takes limits, {"loss", "grad_norm"}, and leaves out an update beyond them: see monitor.Skip.
    """

    def loss(params, batch, rng):
        total, weight, metrics = objective(model.apply, precision.to_compute_dtype(params), batch, rng)
        return total, (weight, metrics)

    def step(state: TrainState, batch, *limits):
        rng = jax.random.fold_in(state.rng, state.step)
        grads, weight, metrics = accumulate(jax.grad(loss, has_aux=True), state.params, batch, rng, microbatches)
        grads = jax.tree.map(lambda g: g / jnp.maximum(weight, 1e-6).astype(g.dtype), grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics["grad_norm"] = (optax.tree.norm(grads), jnp.float32(1))
        rate = optimizers.learning_rate_of(opt_state)
        if rate is not None:
            metrics["learning_rate"] = (rate, jnp.float32(1))
        after = TrainState(state.step + 1, params, opt_state, state.rng)
        return within(limits[0], state, after, metrics) if guarded else (after, metrics)

    everywhere = NamedSharding(mesh, PartitionSpec())
    return jax.jit(
        step,
        donate_argnums=0,
        in_shardings=(layout.shardings, partitioning.batch_sharding(mesh, rules), *([everywhere] if guarded else [])),
        out_shardings=(layout.shardings, everywhere),
    )


def within(limits, before: TrainState, after: TrainState, metrics: dict):
    """(state, metrics): `after` where what is limited is no larger, else `before` with the step counted."""
    fine = jnp.all(
        jnp.array([metrics[x][0] / jnp.maximum(metrics[x][1], 1e-9) <= limits[x] for x in limits if x in metrics])
    )
    state = jax.tree.map(lambda new, old: jnp.where(fine, new, old), after, before.replace(step=after.step))
    return state, metrics | {"skipped": (1.0 - fine, jnp.float32(1))}


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

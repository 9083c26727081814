"""`t5x_like eval --tasks`: evaluates a run on tasks, writes records, and compares them with those of another run."""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from rich.console import Console
from rich.table import Column, Table

from t5x_like import checkpoints
from t5x_like.batching import generation
from t5x_like.cli import setup
from t5x_like.cli.gin.runtime import Config, ConfigError
from t5x_like.data.cache.token_cache import TokenCache
from t5x_like.decoding.sampling import Greedy
from t5x_like.evaluation import comparison, records
from t5x_like.evaluation.task_evaluation import TaskEvaluation, TaskEvaluator
from t5x_like.run_dir import RunDir

Record = Mapping[str, Any]


def run(args: argparse.Namespace) -> None:
    """Runs the command and prints a table or JSON lines."""
    ours = list(evaluate(args, args.run_dir, args.step, args.out))
    if args.against is None:
        print_metrics(args, ours[0][0]["step"], {record["task"]: metrics_of(record) for record, _ in ours})
        return
    folder = None if args.out is None else str(Path(args.out) / "against")
    theirs = evaluate(args, args.against, args.against_step, folder)
    pairs = zip(ours, theirs, strict=True)
    differences = {a["task"]: comparison.compare(a, b, module) for (a, module), (b, _) in pairs}
    print_metrics(args, ours[0][0]["step"], differences)


def evaluate(
    args: argparse.Namespace, run_dir: str, step: int | None, folder: str | None
) -> Iterator[tuple[Record, str]]:
    """Yields (record, defining module) of each task: an existing record with the same settings, or a new one."""
    run = setup.open_from_flags(args, run_dir, step)
    generation.check_generates(run.model)
    step = checkpoints.latest_step(RunDir(run_dir).checkpoints) if step is None else step
    if step is None:
        raise FileNotFoundError(f"no checkpoint in {RunDir(run_dir).checkpoints}; train first")
    sampler, processors = setup.read_decoding(run.config) if args.gin_file else (Greedy(), ())
    prefix = args.prefix or run.is_prefix_lm
    params = None
    for task in args.tasks.split(","):
        evaluation = TaskEvaluation(
            cache_of(run.config, task, args.split, args.module),
            args.examples,
            args.max_new_tokens,
            sampler,
            args.num_samples,
            tuple(args.stop),
            args.inputs_length,
            args.batch_size or 32,
            args.seed,
            processors,
        )
        check_vocabulary(run, evaluation)
        path = records.record_path(folder or RunDir(run_dir).evaluations, task, step)
        record = records.read(path, evaluation.settings(prefix))
        if record is None:
            evaluator = TaskEvaluator(evaluation, run.model, run.mesh, run.rules, prefix)
            params = run.params(run.example_batch()) if params is None else params
            step = cast(int, run.step)  # an earlier one if the newest is damaged
            record = evaluator.make_record(evaluator(params), step)
            path = records.record_path(folder or RunDir(run_dir).evaluations, task, step)
            records.publish(records.write_temporary(path, record))
        yield record, evaluation.cache.definition[0]


def cache_of(config: Config, task: str, split: str, module: str | None) -> TokenCache:
    """The cache of a task, with the run's settings for token caches."""
    options: dict[str, Any] = {"task": task, "split": split}
    if module is not None:  # the run's arguments and data sets belong to its own module
        options |= {"module": module, "arguments": {}, "data_sets": None}
    try:
        return config.bind("token_cache.TokenCache")(**options)
    except ConfigError:  # an imported model
        return TokenCache(**options)


def check_vocabulary(run: setup.TrainedRun, evaluation: TaskEvaluation) -> None:
    """Raises ValueError if a task's vocabulary is not the run's."""
    theirs = evaluation.cache.vocabulary.fingerprint
    if run.vocabulary is not None and run.vocabulary.fingerprint != theirs:
        raise ValueError(
            f"tasks: {evaluation.task!r} has the vocabulary {theirs}, the run {run.run_dir} has "
            f"{run.vocabulary.fingerprint}; use a task with the run's vocabulary"
        )


def metrics_of(record: Record) -> dict[str, dict[str, float]]:
    """The metrics of a record: {metric: {"value", "low", "high"}}, without bounds if a metric has no interval."""
    bounds = {name: dict(zip(("low", "high"), pair, strict=True)) for name, pair in record["intervals"].items()}
    return {name: {"value": value} | bounds.get(name, {}) for name, value in record["metrics"].items()}


def print_metrics(args: argparse.Namespace, step: int, tasks: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    """Prints the metrics of each task as a table, or as JSON with --json."""
    if args.json:
        for task, metrics in tasks.items():
            print(json.dumps({"task": task, "split": args.split, "step": step, "metrics": metrics}))
        return
    columns = ["value"] if args.against is None else ["value", "against", "difference"]
    headers = [Column(name, no_wrap=True) for name in ("task", "metric", *columns, "95% interval")]
    table = Table(*headers, title=f"{args.run_dir}, step {step}, {args.split}")
    for task, metrics in tasks.items():
        for name, values in metrics.items():
            interval = f"{values['low']:.2f} to {values['high']:.2f}" if "low" in values else ""
            table.add_row(task, name, *(f"{values[column]:.2f}" for column in columns), interval)
    Console(soft_wrap=True, width=None if sys.stdout.isatty() else 160).print(table)

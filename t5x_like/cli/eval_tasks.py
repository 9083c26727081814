"""`t5x_like eval --tasks`: a run's answers to tasks, judged, kept as records, and compared with those of another run."""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from t5x_like import batches, checkpoints, inference
from t5x_like.cli import setup
from t5x_like.cli.gin.runtime import Config, ConfigError
from t5x_like.data.cache.token_cache import TokenCache
from t5x_like.decoding.sampling import Greedy
from t5x_like.evaluation import comparison, records
from t5x_like.evaluation.task_evaluation import TaskEvaluation, TaskEvaluator
from t5x_like.run_dir import RunDir

Record = Mapping[str, Any]


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Flags that say which tasks are asked, and how."""
    group = parser.add_argument_group("tasks (with --gin_file=decoding/NAME.gin for another way to choose tokens)")
    group.add_argument(
        "--tasks", metavar="A,B", help="ask the questions of these tasks, and print their metrics instead"
    )
    group.add_argument("--module", metavar="NAME", help="where they are defined (default: where the run's tasks are)")
    group.add_argument("--examples", type=int, metavar="N", help="how many of each (default: all)")
    group.add_argument("--max_new_tokens", type=int, default=64, help="(default: %(default)s)")
    group.add_argument("--num_samples", type=int, default=1, help="per question, for pass@k (default: %(default)s)")
    group.add_argument("--stop", action="append", default=[], metavar="TEXT", help="ends an answer; several times")
    group.add_argument(
        "--inputs_length", type=int, metavar="N", help="tokens of a question that are kept (default: all)"
    )
    group.add_argument("--seed", type=int, default=0, help="of the sampling (default: %(default)s)")
    group.add_argument("--prefix", action="store_true", help="a prefix LM that is no run of `t5x_like train`")
    group.add_argument("--out", metavar="FOLDER", help="where records are kept (default: RUN_DIR/evaluations)")
    group.add_argument("--against", metavar="RUN_DIR", help="print the difference from this run, with its interval")
    group.add_argument("--against_step", type=int, help="its checkpoint (default: the newest)")
    group.add_argument("--json", action="store_true", help="print JSON, an object a line, instead of a table")


def run(args: argparse.Namespace) -> None:
    """Runs the command, and prints a table or lines of JSON."""
    ours = list(evaluated(args, args.run_dir, args.step, args.out))
    if args.against is None:
        show(args, ours[0]["step"], {record["task"]: singles(record) for record in ours})
        return
    folder = None if args.out is None else str(Path(args.out) / "against")
    theirs = evaluated(args, args.against, args.against_step, folder)
    show(args, ours[0]["step"], {a["task"]: comparison.compare(a, b) for a, b in zip(ours, theirs, strict=True)})


def evaluated(args: argparse.Namespace, run_dir: str, step: int | None, folder: str | None) -> Iterator[Record]:
    """The record of each task; one that is there already is read."""
    opened = setup.TrainedRun(run_dir, args.gin_overrides, step, args.gin_file)
    opened.step = checkpoints.latest_step(RunDir(run_dir).checkpoints) if step is None else step
    sampler = opened.config.evaluate("%CHOOSE") if args.gin_file else Greedy()
    prefix = args.prefix or is_prefix_lm(opened.config)
    params = None
    for task in args.tasks.split(","):
        evaluation = TaskEvaluation(
            cache_of(opened.config, task, args.split, args.module),
            args.examples,
            args.max_new_tokens,
            sampler,
            args.num_samples,
            tuple(args.stop),
            args.inputs_length,
            args.batch_size or 32,
            args.seed,
        )
        check_vocabulary(opened, evaluation)
        path = records.record_path(folder or RunDir(run_dir).evaluations, task, opened.step)
        record = records.read(path, evaluation.settings(prefix))
        if record is None:
            evaluator = TaskEvaluator(evaluation, opened.model, opened.mesh, opened.rules, prefix)
            params = opened.params(one_row(opened)) if params is None else params
            record = evaluator.make_record(evaluator(params), opened.step)
            records.publish(records.write_temporary(path, record))
        yield record


def one_row(opened: setup.TrainedRun):
    """A batch of one token, which says what inputs the model has."""
    if opened.model.encoder_decoder:
        return inference.encoder_batch([[0]], opened.vocabulary)
    return inference.decoder_batch([[0]])


def cache_of(config: Config, task: str, split: str, module: str | None) -> TokenCache:
    """A task's cache, from where the run has its own."""
    given = {"task": task, "split": split} | ({} if module is None else {"module": module})
    try:
        return config.configured("token_cache.TokenCache")(**given)
    except ConfigError:  # an imported model
        return TokenCache(**given)


def is_prefix_lm(config: Config) -> bool:
    """Whether the run was trained on rows that are read bidirectionally in part."""
    try:
        rows = config.evaluate("trainer.train.eval_rows") or config.evaluate("trainer.train.train_rows")
    except ConfigError:  # an imported model
        return False
    return "decoder_prefix" in batches.abstract(rows, 1)


def check_vocabulary(opened: setup.TrainedRun, evaluation: TaskEvaluation) -> None:
    """Refuses a task in other tokens than the run's."""
    theirs = evaluation.cache.vocabulary.fingerprint
    if opened.vocabulary is not None and opened.vocabulary.fingerprint != theirs:
        raise ValueError(
            f"tasks: {evaluation.task!r} has the vocabulary {theirs}, the run {opened.run_dir} has "
            f"{opened.vocabulary.fingerprint}; take the same task with the run's vocabulary"
        )


def singles(record: Record) -> dict[str, dict[str, float]]:
    """The metrics of one record, with the intervals of those that have one."""
    bounds = {name: dict(zip(("low", "high"), both, strict=True)) for name, both in record["intervals"].items()}
    return {name: {"value": value} | bounds.get(name, {}) for name, value in record["metrics"].items()}


def show(args: argparse.Namespace, step: int, tasks: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    """Prints what was measured."""
    if args.json:
        for task, metrics in tasks.items():
            print(json.dumps({"task": task, "split": args.split, "step": step, "metrics": metrics}))
        return
    columns = ["value"] if args.against is None else ["value", "against", "difference"]
    heads = [Column(name, no_wrap=True) for name in ("task", "metric", *columns, "95% interval")]
    table = Table(*heads, title=f"{args.run_dir}, step {step}, {args.split}")
    for task, metrics in tasks.items():
        for name, one in metrics.items():
            interval = f"{one['low']:.2f} to {one['high']:.2f}" if "low" in one else ""
            table.add_row(task, name, *(f"{one[column]:.2f}" for column in columns), interval)
    Console(soft_wrap=True, width=None if sys.stdout.isatty() else 160).print(table)

"""Measures a trained run on any split: loss, perplexity, bits per byte; or its answers to the questions of --tasks.

Prints one JSON object. The task, lengths and objective are the run's own unless --gin.NAME=value says otherwise
(--gin.TASK=python_docs_bytes, --gin.LENGTH=128). With --tasks=A,B prints a table of the tasks' own metrics with 95%
intervals, or with --against=RUN_DIR of the differences from another run on the same examples; every question and answer is
kept in RUN_DIR/evaluations/TASK/STEP.json, and not asked again.
"""

import argparse
import json
from collections.abc import Sequence

from t5x_like.cli.gin import runtime
from t5x_like.cli.gin.runtime import ConfigError


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="t5x_like eval", description=__doc__)
    parser.add_argument("--run_dir", required=True, help="directory of a run made by `t5x_like train`")
    parser.add_argument("--split", default="validation", help="split of the task (default: %(default)s)")
    parser.add_argument("--step", type=int, help="checkpoint to read (default: the newest)")
    parser.add_argument("--batches", type=int, help="how many batches to read (default: all rows once)")
    parser.add_argument("--batch_size", type=int, help="rows per batch (default: the run's)")
    runtime.add_flags(parser)
    from t5x_like.cli import eval_tasks, setup

    eval_tasks.add_flags(parser)
    setup.add_flags(parser)
    args = runtime.parse_args(parser, argv)
    setup.initialize(args)
    if args.tasks:
        eval_tasks.run(args)
        return 0
    print(json.dumps(evaluate(args)))
    return 0


def evaluate(args: argparse.Namespace) -> dict[str, float]:
    """Metrics of the run that `args` name, and the step they are of."""
    from t5x_like import batches
    from t5x_like.cli import setup
    from t5x_like.data import mixing
    from t5x_like.evaluation.evaluator import Evaluator
    from t5x_like.progress import track

    split = [f"--gin.validation/token_cache.TokenCache.split='{args.split}'"]
    run = setup.TrainedRun(args.run_dir, [*args.gin_overrides, *split], args.step)
    rows = run.config.evaluate("trainer.train.eval_rows")
    if rows is None:
        raise ConfigError("trainer.train.eval_rows is None in this run; set it with a gin override")
    size = args.batch_size or run.config.evaluate("trainer.train.batch_size")
    objective = run.config.evaluate("trainer.train.objective")
    measure = Evaluator(run.model.apply, objective, rows, size, run.mesh, run.rules, args.batches)
    params = run.params(batches.abstract(rows, size))
    metrics = measure(params, lambda batches: track(batches, "eval", len(measure)))
    tasks = " + ".join(mixing.components(rows)) if len(rows.caches) > 1 else rows.caches[0].task
    return {"step": run.step, "task": tasks, "split": rows.caches[0].split} | metrics

"""Evaluates a trained run on any split: loss, perplexity and bits per byte, or the metrics of --tasks or --lm_eval.

Prints one JSON object. The task, lengths and objective are the run's own unless --gin.NAME=value changes them
(--gin.TASK=python_docs_bytes, --gin.LENGTH=128). With --tasks=A,B prints a table of the tasks' own metrics with 95%
intervals; with --against=RUN_DIR also the differences from another run on the same examples. Every question and answer is
written to RUN_DIR/evaluations/TASK/STEP.json, which later calls reuse. With --lm_eval=A,B prints the table of
lm-evaluation-harness for its tasks, or those of --lm_eval_tasks_dir, and writes RUN_DIR/evaluations/lm_eval/TASK/STEP.json.
"""

import argparse
import json
from collections.abc import Sequence

from t5x_like.cli import flags
from t5x_like.cli.gin import runtime
from t5x_like.cli.gin.runtime import ConfigError

# Flags that only --tasks reads, only --lm_eval, and both.
OF_TASKS = ("examples", "max_new_tokens", "num_samples", "stop", "inputs_length", "against")
OF_LM_EVAL = ("lm_eval_tasks_dir", "num_fewshot", "limit", "max_length", "chat")
OF_BOTH = ("seed", "prefix", "out")


def main(argv: Sequence[str]) -> int:
    """Runs `t5x_like eval`."""
    parser = flags.Parser(prog="t5x_like eval", description=__doc__)
    flags.add_run(parser)
    parser.add_argument("--split", default="validation", help="split of the task (default: %(default)s)")
    parser.add_argument("--batches", type=flags.positive, help="number of batches to read (default: all rows once)")
    parser.add_argument("--batch_size", type=flags.positive, help="rows per batch (default: the run's)")
    runtime.add_flags(parser)
    add_task_flags(parser)
    add_harness_flags(parser)
    flags.add_machine(parser)
    args = runtime.parse_args(parser, argv)
    check_flags(parser, args)
    from t5x_like.cli import setup
    from t5x_like.cli.evaluation import harness, tasks

    setup.initialize(args)
    if args.lm_eval is not None:
        harness.run(args)
    elif args.tasks is not None:
        tasks.run(args)
    else:
        print(json.dumps(evaluate(args)))
    return 0


def check_flags(parser: flags.Parser, args: argparse.Namespace) -> None:
    """Raises ConfigError if a flag is given that nothing reads."""
    parser.check_needless(args, OF_TASKS, "tasks")
    parser.check_needless(args, OF_LM_EVAL, "lm_eval")
    parser.check_needless(args, ["against_step"], "against")
    if not args.lm_eval:
        parser.check_needless(args, OF_BOTH, "tasks")
    if args.tasks and args.batches:
        parser.error(f"--batches={args.batches} does not apply to --tasks; --examples limits those")
    for name in ("tasks", "batches", "split", "module"):
        if args.lm_eval and (value := getattr(args, name)) != parser.get_default(name):
            parser.error(
                f"--{name}={value} does not apply to --lm_eval; its tasks say what they read, --limit how much"
            )


def add_harness_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of lm-evaluation-harness."""
    group = parser.add_argument_group("lm-evaluation-harness (needs the extra lm_eval; --out, --json, ... apply too)")
    group.add_argument("--lm_eval", metavar="A,B", help="evaluate these tasks of the harness instead")
    group.add_argument(
        "--lm_eval_tasks_dir",
        metavar="FOLDER",
        help="read tasks from the YAML files of this folder, which may run code",
    )
    group.add_argument("--num_fewshot", type=flags.count, metavar="N", help="examples per prompt (default: the task's)")
    group.add_argument("--limit", type=flags.positive, metavar="N", help="documents per task (default: all)")
    group.add_argument(
        "--max_length",
        type=flags.length,
        metavar="N",
        help="tokens that the model reads (default: the position table, or the run's training rows)",
    )
    group.add_argument("--chat", action="store_true", help="render prompts with the chat template")


def add_task_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of task evaluation."""
    group = parser.add_argument_group("tasks (--gin_file=decoding/NAME.gin chooses another sampler or processors)")
    group.add_argument(
        "--tasks", metavar="A,B", help="evaluate these tasks and print their metrics instead of the losses"
    )
    group.add_argument(
        "--module", metavar="NAME", help="module that defines the tasks (default: that of the run's tasks)"
    )
    group.add_argument(
        "--examples", type=flags.positive, metavar="N", help="number of examples per task (default: all)"
    )
    group.add_argument("--max_new_tokens", type=flags.length, default=64, help="(default: %(default)s)")
    group.add_argument(
        "--num_samples", type=flags.positive, default=1, help="samples per question, for pass@k (default: %(default)s)"
    )
    group.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="text that ends an answer (repeatable)"
    )
    group.add_argument(
        "--inputs_length", type=flags.positive, metavar="N", help="truncate questions to N tokens (default: no limit)"
    )
    group.add_argument("--seed", type=flags.seed, default=0, help="seed of the sampler (default: %(default)s)")
    group.add_argument("--prefix", action="store_true", help="read questions bidirectionally: an imported prefix LM")
    group.add_argument("--out", metavar="FOLDER", help="folder of the records (default: RUN_DIR/evaluations)")
    group.add_argument("--against", metavar="RUN_DIR", help="print the differences from this run, with intervals")
    group.add_argument("--against_step", type=flags.count, help="checkpoint of that run (default: the newest)")
    group.add_argument("--json", action="store_true", help="print one JSON object per task instead of a table")


def evaluate(args: argparse.Namespace) -> dict[str, int | float | str]:
    """Evaluates the run on rows: its metrics, with the step, task and split.

    Raises:
      ConfigError: the run has no evaluation rows.
    """
    from t5x_like import batches
    from t5x_like.cli import setup
    from t5x_like.data import mixing
    from t5x_like.evaluation.evaluator import Evaluator
    from t5x_like.progress import track
    from t5x_like.training import contract, references

    split = [f"--gin.validation/token_cache.TokenCache.split='{args.split}'"]
    run = setup.open_from_flags(args, args.run_dir, args.step, split)
    rows = run.config.evaluate("trainer.train.evaluation").rows
    if rows is None:
        raise ConfigError("trainer.Evaluation.rows is None in this run; set it with a gin override")
    size = args.batch_size or run.config.evaluate("trainer.train.batch_size")
    objective = run.config.evaluate("trainer.train.objective")
    contract.check(run.model, objective, rows)
    example = batches.abstract(rows, size)
    trees = references.load(objective, run.model, example, run.mesh, run.rules, run.precision)
    evaluator = Evaluator(run.model.apply, objective, rows, size, run.mesh, run.rules, args.batches, trees)
    params = run.params(example)
    metrics = evaluator(params, lambda items: track(items, "eval", len(evaluator)))
    tasks = " + ".join(mixing.components(rows)) if len(rows.caches) > 1 else rows.caches[0].task
    return {"step": run.step, "task": tasks, "split": rows.caches[0].split} | metrics

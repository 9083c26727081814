"""`t5x_like eval --lm_eval`: evaluates a run on tasks of lm-evaluation-harness and writes their results."""

import argparse
import difflib
import hashlib
import importlib.util
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from t5x_like import __version__
from t5x_like.cli import setup
from t5x_like.cli.gin.runtime import ConfigError
from t5x_like.data.cache.token_cache import package_version
from t5x_like.evaluation import records
from t5x_like.run_dir import RunDir
from t5x_like.scoring.rows import length_limits
from t5x_like.scoring.texts import ScoringOptions, TextScorer


def run(args: argparse.Namespace) -> None:
    """Runs the command: prints the harness's tables, or JSON lines, and writes a record of each task.

    Raises:
      ConfigError: the harness is not installed, or does not know a task.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise ConfigError("--lm_eval needs lm-evaluation-harness: pip install 't5x_like[lm_eval]'")
    from lm_eval import simple_evaluate
    from lm_eval.utils import make_table

    names = args.lm_eval.split(",")
    manager = find_tasks(names, args.lm_eval_tasks_dir)
    run = setup.open_from_flags(args, args.run_dir, args.step)
    if {binding.macro for binding in run.config.bindings} & set(setup.DECODING):
        raise ConfigError(
            "gin files of decoding/ do not apply to --lm_eval; its tasks choose samplers in generation_kwargs"
        )
    model = make_model(args, run)
    options = {"num_fewshot": args.num_fewshot, "limit": args.limit, "apply_chat_template": args.chat}
    results = simple_evaluate(model, tasks=names, task_manager=manager, bootstrap_iters=1000, **options)
    settings = options | {"limits": dict(model.scorer.limits), "prefix": model.scorer.options.prefix, "seed": args.seed}
    made = [
        make_record(results, name, run.step, settings, model.dropped)
        for name in results["results"]
        if name in results["samples"]
    ]
    if jax.process_index() != 0:
        return
    for record in made:
        folder = args.out or RunDir(args.run_dir).evaluations
        path = records.record_path(folder, f"lm_eval/{record['task']}", record["step"])
        records.publish(records.write_temporary(path, record))
    if args.json:
        for record in made:
            print(json.dumps({name: record[name] for name in ("task", "step", "metrics", "stderr")}))
        return
    print(make_table(results))
    if "groups" in results:
        print(make_table(results, "groups"))


def find_tasks(names: Sequence[str], folder: str | None) -> Any:
    """The harness's TaskManager that knows the tasks: those of `folder`, and its own ones if others are named.

    Raises:
      ConfigError: a task is unknown.
    """
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=folder, include_defaults=False)
    if not set(names) <= set(manager.all_tasks):  # reading the harness's own 14,000 takes long
        manager = TaskManager(include_path=folder)
    for name in names:
        if name not in manager.all_tasks:
            near = difflib.get_close_matches(name, manager.all_tasks, n=3)
            hint = (
                f"did you mean {' or '.join(near)}?"
                if near
                else "name one, or a folder of tasks with --lm_eval_tasks_dir"
            )
            raise ConfigError(f"--lm_eval={name}: lm-evaluation-harness has no such task; {hint}")
    return manager


def make_model(args: argparse.Namespace, run: setup.TrainedRun) -> Any:
    """The run as a model of the harness."""
    from t5x_like.evaluation import harness

    limits = length_limits(run.model, args.max_length, run.row_lengths)
    options = ScoringOptions(limits, args.batch_size or 32, prefix=args.prefix or run.is_prefix_lm)
    vocabulary = run.require_vocabulary()
    if args.chat and vocabulary.chat_template is None:
        raise ConfigError(f"--chat: the vocabulary of {args.run_dir} has no chat template; leave it out")
    scorer = TextScorer(run.model, vocabulary, options, run.mesh, run.rules)
    params = run.params(run.example_batch())
    generate = harness.Generator(run.model, params, scorer, run.mesh, run.rules, args.seed)
    return harness.HarnessModel(scorer, params, generate)


def make_record(
    results: Mapping[str, Any], task: str, step: int | None, settings: Mapping[str, Any], dropped: int
) -> dict[str, Any]:
    """The record of one task: its metrics, what they depend on, and all examples.

    `prompts` is a hash of all that the model was given; `dropped` counts the context tokens that were cut off, in all tasks.
    """
    values = {name: value for name, value in results["results"][task].items() if "," in name}
    config, samples = results["configs"][task], results["samples"][task]
    prompts = [records.to_json(sample["arguments"]) for sample in samples]
    return {
        "task": task,
        "step": step,
        "settings": dict(settings),
        "versions": {
            "lm_eval": package_version("lm_eval"),
            "t5x_like": __version__,
            "task": results["versions"].get(task),
        },
        "n_shot": results["n-shot"].get(task),
        "prompts": hashlib.sha256(json.dumps(prompts, sort_keys=True).encode()).hexdigest(),
        "decontamination": {
            name: config.get(name) for name in ("should_decontaminate", "doc_to_decontamination_query")
        },
        "count": len(samples),
        "dropped": dropped,
        "metrics": {name: value for name, value in values.items() if "_stderr," not in name},
        "stderr": {name.replace("_stderr,", ","): value for name, value in values.items() if "_stderr," in name},
        "examples": samples,
    }

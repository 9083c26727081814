"""Lets a trained run write instructions with inputs and outputs, from a few seeds (Self-Instruct, Wang et al. 2022).

--seeds is a .jsonl file of {"instruction", "input", "output"}; "input" is optional, and "is_choice": true marks a task whose
output is one of a few labels. New tasks are appended to --output, with the most similar instruction before them. Tasks more
similar than --similarity (ROUGE-L) are left out, and counted by rule at the end. The same command goes on after an interrupt. The
output is training data: t5x_like train --gin_file=runs/alpaca.gin --gin.TRAIN_FILES=OUTPUT ...
"""

import argparse
import collections
import json
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from t5x_like.cli import flags, streams
from t5x_like.cli.gin.runtime import ConfigError
from t5x_like.files import lines
from t5x_like.prompting import self_instruct
from t5x_like.prompting.self_instruct import Made, Recipe, Rejected, Task

if TYPE_CHECKING:
    from t5x_like.serving.engine import Engine

DEFAULT = Recipe()


def main(argv: Sequence[str]) -> int:
    """Runs `t5x_like self_instruct`."""
    parser = flags.Parser(prog="t5x_like self_instruct", description=__doc__)
    flags.add_run(parser)
    parser.add_argument("--seeds", required=True, metavar="FILE", help="tasks that the model is shown")
    parser.add_argument("--output", required=True, metavar="FILE", help="append new tasks to this file")
    parser.add_argument("--count", type=flags.positive, default=100, help="tasks to make (default: %(default)s)")
    parser.add_argument(
        "--similarity",
        type=flags.share,
        default=DEFAULT.similarity,
        help="the largest ROUGE-L F to another instruction (default: %(default)s)",
    )
    parser.add_argument(
        "--temperature", type=flags.amount, default=DEFAULT.temperature, help="of instructions (default: %(default)s)"
    )
    parser.add_argument("--top_p", type=flags.share, default=DEFAULT.top_p, help="likewise (default: %(default)s)")
    parser.add_argument(
        "--max_new_tokens",
        type=flags.positive,
        default=DEFAULT.max_tokens,
        help="of a completion (default: %(default)s)",
    )
    parser.add_argument(
        "--prompts", type=flags.positive, default=DEFAULT.prompts, help="prompts of a round (default: %(default)s)"
    )
    parser.add_argument("--seed", type=flags.seed, default=0, help="of all random choices (default: %(default)s)")
    parser.add_argument("--max_length", type=flags.length, help="tokens of a prompt with its completion")
    parser.add_argument("--chat", action="store_true", help="give prompts as messages, by the run's chat template")
    flags.add_quantization(parser)
    flags.add_compile_cache(parser)
    args = parser.parse_args(argv)
    seeds = read_tasks(args.seeds)
    recipe = Recipe(
        similarity=args.similarity,
        temperature=args.temperature,
        top_p=args.top_p,
        max_tokens=args.max_new_tokens,
        prompts=args.prompts,
        seed=args.seed,
    )
    self_instruct.check_seeds(seeds)
    with streams.hold_output(args.output):
        return run(args, seeds, recipe)


def read_tasks(path: str) -> list[Task]:
    """The tasks of a .jsonl file.

    Raises:
      ConfigError: a line is no task; the message has its number.
    """
    tasks = []
    for number, line in enumerate(lines.read_lines(path), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            record = json.loads(line)
        except ValueError as error:
            raise ConfigError(f"{where} is not JSON ({error})") from error
        if not isinstance(record, dict):
            raise ConfigError(f"{where} is a JSON {type(record).__name__}, not an object")
        tasks.append(self_instruct.read_task(record, where))
    return tasks


def read_made(path: str) -> tuple[list[Task], int]:
    """(the tasks in the output file, the round after theirs).

    Raises:
      ConfigError: the file has other records.
    """
    records = list(lines.read_records(path))
    if wrong := [record for record in records if "round" not in record or "instruction" not in record]:
        raise ConfigError(
            f"--output={path} has the record {str(wrong[0])[:60]}, which this command did not write; give another file"
        )
    tasks = [self_instruct.read_task(record, f"{path}, record {number}") for number, record in enumerate(records, 1)]
    return tasks, max((record["round"] for record in records), default=-1) + 1


def run(args: argparse.Namespace, seeds: Sequence[Task], recipe: Recipe) -> int:
    """Makes tasks and writes them as they come; prints the counts."""
    made, first_round = read_made(args.output)
    if len(made) >= args.count:
        print(f"{args.output} has {len(made)} tasks already; raise --count={args.count} for more", file=sys.stderr)
        return 0
    from t5x_like.cli import setup
    from t5x_like.cli.opening import Engine
    from t5x_like.serving.options import Options

    setup.use_compile_cache(args.compile_cache)
    options = Options(args.max_length, quantization=args.quantization, kv_cache_dtype=args.kv_cache_dtype)
    rules: collections.Counter[str] = collections.Counter()
    with Engine.from_run(args.run_dir, options, args.step) as engine:
        model = EngineLM(engine, args.chat)
        events = self_instruct.bootstrap(model.generate, seeds, args.count, recipe, made, first_round)
        write(events, args.output, rules)
    rejected = ", ".join(f"{count} {rule}" for rule, count in rules.most_common() if rule != "made") or "none"
    print(
        f"{args.output}: {len(made) + rules['made']} tasks, {rules['made']} of them new; rejected: {rejected}",
        file=sys.stderr,
    )
    return 0


def write(events: Iterator[Made | Rejected], output: str, rules: collections.Counter[str]) -> None:
    """Appends the made tasks to the output file, and counts those that are made and rejected."""
    with streams.open_output(output) as out:
        for event in events:
            rules[event.rule if isinstance(event, Rejected) else "made"] += 1
            if isinstance(event, Made):
                task, about = event.task, {"similarity": round(event.similarity, 4), "nearest": event.nearest}
                record = {"instruction": task.instruction, "input": task.input, "output": task.output}
                record_about = {"is_choice": task.is_choice, "round": event.round, **about}
                print(streams.to_json(record | record_about), file=out, flush=True)


class EngineLM:
    """An engine as `types.LM.generate` has it; what the model wrote is text, also where it names control tokens."""

    def __init__(self, engine: "Engine", chat: bool = False):
        self.engine, self.chat = engine, chat

    def generate(
        self,
        prompts: Sequence[str],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        stop: Sequence[str] = (),
        seed: int = 0,
    ) -> list[str]:
        """One completion per prompt."""
        from t5x_like import prompt_batches
        from t5x_like.serving.requests import Settings

        settings = Settings(max_tokens, temperature, top_p=top_p, stop=stop, seed=seed)
        records = [
            {"prompt": "", "messages": [{"role": "user", "content": p}]} if self.chat else {"prompt": p}
            for p in prompts
        ]
        ids = [
            prompt_batches.prompt_ids(record, self.engine.vocabulary, self.engine.model.encoder_decoder, literal=True)
            for record in records
        ]
        return [completions[0].text for completions in self.engine.generate(ids, settings)]

"""Continues prompts with a trained run: text or JSONL in, JSONL out.

Give prompts with --prompt (repeatable) or --input FILE (.jsonl with "prompt" or "messages" fields, otherwise one prompt per
line). A gin file chooses how tokens are chosen: --gin_file=decoding/greedy.gin (default), temperature, top_k, top_p, min_p,
typical or beam. Another one, such as --gin_file=decoding/penalties.gin, chooses processors of the logits.

Names of control tokens (</s>, <extra_id_0>) in a prompt are read as tokens; in the messages of a chat they are text. A prompt
that cannot be continued (too long for the model, not Unicode, ...) gives a result with "error" instead of "completion", and the
others go on: the exit code is 1, or 2 if all failed.
"""

import argparse
import collections
import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from t5x_like import interrupts, locks
from t5x_like.cli import flags
from t5x_like.cli.gin import runtime
from t5x_like.cli.gin.runtime import ConfigError
from t5x_like.files import lines
from t5x_like.types import PathLike

SHOWN = 20  # errors that are printed; all are in the output


def main(argv: Sequence[str]) -> int:
    """Runs `t5x_like infer`."""
    parser = flags.Parser(prog="t5x_like infer", description=__doc__)
    flags.add_run(parser)
    parser.add_argument("--prompt", action="append", default=[], help="a prompt (repeatable)")
    parser.add_argument("--input", metavar="FILE", help="a file of prompts")
    parser.add_argument("--output", metavar="FILE", help="append results to this file and skip the ids already in it")
    parser.add_argument("--max_new_tokens", type=flags.length, default=128, help="(default: %(default)s)")
    parser.add_argument("--batch_size", type=flags.positive, default=8, help="prompts per batch (default: %(default)s)")
    parser.add_argument(
        "--samples", type=flags.positive, default=1, help="completions per prompt (default: %(default)s)"
    )
    parser.add_argument("--seed", type=flags.seed, default=0, help="seed of the sampler (default: %(default)s)")
    parser.add_argument("--prefix", action="store_true", help="the run is a prefix LM: read prompts bidirectionally")
    parser.add_argument(
        "--chat", action="store_true", help="render each prompt as a user message with the chat template"
    )
    parser.add_argument("--system", metavar="TEXT", help="with --chat: system message before the prompt")
    runtime.add_flags(parser)
    flags.add_machine(parser)
    args = runtime.parse_args(parser, argv)
    from t5x_like.cli import setup

    setup.initialize(args)
    kept = f"stopped; the finished results are in {args.output}, and the same command continues" if args.output else ""
    with hold_output(args.output), interrupts.explain(kept):
        return infer(args)


def hold_output(output: str | None) -> contextlib.AbstractContextManager[None]:
    """Keeps other processes from appending to the same output file; the first of several processes holds its lock."""
    import jax

    if output is None or jax.process_index() != 0:
        return contextlib.nullcontext()
    return locks.hold(locks.beside(output), f"--output={output}")


def infer(args: argparse.Namespace) -> int:
    """Generates the completions and prints them to the output file or standard output; returns 1 if some prompts failed.

    Raises:
      ConfigError: there is no prompt, all prompts failed, or --system without --chat.
    """
    from t5x_like import inference
    from t5x_like.cli import setup
    from t5x_like.progress import track

    if args.system is not None and not args.chat:
        raise ConfigError("--system is the system message of a chat; give --chat with it")
    read = make_reader(args)
    finished, count = find_finished(read(), args.output)  # every prompt is checked before anything is compiled
    if not count:
        raise ConfigError("there are no prompts; give --prompt=TEXT or --input=FILE")
    default = [] if args.gin_file else ["decoding/greedy.gin"]
    sampler, processors = setup.read_decoding(runtime.from_flags(args, setup.DECODING, default))
    batch_size = min(args.batch_size, count)  # more rows would be computed for nothing
    options = inference.DecodingOptions(
        sampler, args.max_new_tokens, batch_size, args.seed, args.prefix, processors, args.samples
    )
    run = setup.TrainedRun(args.run_dir, (), args.step)
    vocabulary, params = run.require_vocabulary(), run.params(run.example_batch())
    results = inference.infer(run.model, params, vocabulary, read(), options, run.mesh, run.rules, finished)
    with open_output(args.output) as out:
        failed = []
        for result in track(results, "infer", count - len(finished)):
            print(to_json(result), file=out, flush=True)
            if "error" in result:
                failed.append(f"id={result['id']!a}: {result['error']}")
    return report_failures(failed, count - len(finished))


def report_failures(failed: list[str], count: int) -> int:
    """Prints the errors of the prompts that failed, and returns the exit code.

    Raises:
      ConfigError: all failed.
    """
    if not failed:
        return 0
    summary = f"{len(failed)} of {count} prompts failed; a run with the same --output tries them again"
    if len(failed) == count:
        raise ConfigError(f"{failed[0]} ({summary})")
    for line in failed[:SHOWN]:
        print(f"t5x_like: {line}", file=sys.stderr)
    print(f"t5x_like: {summary}", file=sys.stderr)
    return 1


def to_json(result: dict[str, Any]) -> str:
    """A result as JSON; what cannot be written as UTF-8 is escaped."""
    text = json.dumps(result, ensure_ascii=False)
    return text if text.isascii() or is_unicode(text) else json.dumps(result)


def is_unicode(text: str) -> bool:
    """Whether a text has no half of a surrogate pair."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def open_output(path: str | None) -> contextlib.AbstractContextManager[IO[str]]:
    """The stream of results: the output file or standard output; of several processes only the first writes them."""
    import jax

    if jax.process_index() != 0:
        return open(os.devnull, "w")
    return contextlib.nullcontext(sys.stdout) if path is None else lines.open_append(path)


def make_reader(args: argparse.Namespace) -> Callable[[], Iterator[dict[str, Any]]]:
    """Returns a function that yields all prompts, those of the flags first. A file is read anew in each call, a pipe once."""
    from t5x_like import prompt_batches

    def read() -> Iterator[dict[str, Any]]:
        yield from ({"id": i, "prompt": text} for i, text in enumerate(args.prompt))
        yield from prompt_batches.read_prompts(args.input) if args.input else ()

    def render() -> Iterator[dict[str, Any]]:
        return (prompt_batches.to_chat(record, args.system) for record in read()) if args.chat else read()

    if args.input and Path(args.input).exists() and not Path(args.input).is_file():
        records = list(render())
        return lambda: iter(records)
    return render


def find_finished(prompts: Iterable[dict[str, Any]], output: PathLike | None) -> tuple[set[int], int]:
    """(indices of the prompts whose completions are in the output file, number of prompts).

    If several prompts have the same id, as many of them are finished as results have it, the first ones.

    Raises:
      ConfigError: the output file has other records than results, or results of other prompts.
    """
    left = collections.defaultdict(list)
    for result in lines.read_records(output) if output else ():
        if "error" in result:
            continue
        if not {"id", "prompt", "completion"} <= result.keys():
            raise ConfigError(f"--output={output} has records that are no results of infer; give another file")
        left[json.dumps(result["id"])].append(result["prompt"])
    finished, count = set(), 0
    for record in prompts:
        if done := left[json.dumps(record["id"])]:
            old = done.pop(0)
            if record.get("prompt", old) != old:  # the prompt of a chat is not rendered yet
                raise ConfigError(
                    f"--output={output} has a result of id={record['id']!a} for the prompt {old[:60]!a}, now the prompt is "
                    f"{record['prompt'][:60]!a}; give another file"
                )
            finished.add(count)
        count += 1
    return finished, count

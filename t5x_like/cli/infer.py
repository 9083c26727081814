"""Continues prompts with a trained run: text or JSONL in, JSONL out.

Give prompts with --prompt (repeatable) or --input FILE (.jsonl with "prompt" or "messages" fields, otherwise one prompt per
line). A gin file chooses how tokens are chosen: --gin_file=decoding/greedy.gin (default), temperature, top_k, top_p, min_p,
typical, eta, beam or diverse_beam. Another one, such as --gin_file=decoding/penalties.gin, chooses processors of the logits.

Speculative decoding: --gin_file=decoding/prompt_lookup.gin guesses tokens by copying from the prompt and the completion,
--draft_run=DIR by a smaller model with the same vocabulary, and the model verifies several of them per step. Greedy completions
stay the same, samples have the same distribution, and results tell how many tokens were "proposed" and "accepted".

A result has the "completion", its "tokens", their "log_prob", "finished", and "finish_reason": "stop" (an id that ends text, or a
text of --stop, which is no part of the completion) or "length". --log_probs=N adds "token_log_probs": each token with its
log-probability under the model and among the tokens that were sampled from, and the N most likely tokens. A beam search and
speculative decoding have neither --stop nor --log_probs.

--quantization=int8 stores the weights of all models of the command in 8 bits, --kv_cache_dtype=int8 the cached keys and values.

Names of control tokens (</s>, <extra_id_0>) in a prompt are read as tokens; in the messages of a chat they are text. A prompt
that cannot be continued (too long for the model, not Unicode, ...) gives a result with "error" instead of "completion", and the
others go on: the exit code is 1, or 2 if all failed.
"""

import argparse
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from t5x_like.cli import flags, streams
from t5x_like.cli.gin import runtime
from t5x_like.cli.gin.runtime import ConfigError
from t5x_like.types import PathLike

BATCH_SIZE = (
    "rows that are continued at once, a completion in each; with a beam search or speculative decoding, prompts that are "
    "(default: %(default)s)"
)


def main(argv: Sequence[str]) -> int:
    """Runs `t5x_like infer`."""
    parser = flags.Parser(prog="t5x_like infer", description=__doc__)
    flags.add_run(parser)
    parser.add_argument("--prompt", action="append", default=[], help="a prompt (repeatable)")
    parser.add_argument("--input", metavar="FILE", help="a file of prompts")
    parser.add_argument("--output", metavar="FILE", help="append results to this file and skip the ids already in it")
    parser.add_argument("--max_new_tokens", type=flags.length, default=128, help="(default: %(default)s)")
    parser.add_argument("--batch_size", type=flags.positive, default=8, help=BATCH_SIZE)
    parser.add_argument(
        "--samples", type=flags.positive, default=1, help="completions per prompt (default: %(default)s)"
    )
    parser.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="text that ends a completion (repeatable)"
    )
    parser.add_argument(
        "--log_probs", type=flags.alternatives, metavar="N", help="add every token's log-probability and N alternatives"
    )
    parser.add_argument(
        "--draft_run", metavar="DIR", help="speculative decoding: the run of a smaller model that guesses"
    )
    parser.add_argument(
        "--draft_tokens",
        type=flags.positive,
        default=4,
        help="with --draft_run: guesses per step (default: %(default)s)",
    )
    parser.add_argument(
        "--amateur_run",
        metavar="DIR",
        help="contrastive decoding: the run of a smaller model; log-probabilities are of the contrast",
    )
    parser.add_argument(
        "--alpha",
        type=flags.number,
        default=0.1,
        help="with --amateur_run: the least share of the largest probability (default: %(default)s)",
    )
    parser.add_argument("--seed", type=flags.seed, default=0, help="seed of the sampler (default: %(default)s)")
    parser.add_argument("--prefix", action="store_true", help="the run is a prefix LM: read prompts bidirectionally")
    parser.add_argument(
        "--chat", action="store_true", help="render each prompt as a user message with the chat template"
    )
    parser.add_argument("--system", metavar="TEXT", help="with --chat: system message before the prompt")
    flags.add_quantization(parser)
    runtime.add_flags(parser)
    flags.add_machine(parser)
    args = runtime.parse_args(parser, argv)
    parser.check_needless(args, ["draft_tokens"], "draft_run")
    parser.check_needless(args, ["alpha"], "amateur_run")
    from t5x_like.cli import setup

    setup.initialize(args)
    with streams.hold_output(args.output):
        return infer(args)


def infer(args: argparse.Namespace) -> int:
    """Generates the completions and prints them to the output file or standard output; returns 1 if some prompts failed.

    Raises:
      ConfigError: there is no prompt, all prompts failed, --system without --chat, or a draft or amateur that does not fit.
    """
    from t5x_like import inference
    from t5x_like.batching import generation
    from t5x_like.cli import setup
    from t5x_like.progress import track

    if args.system is not None and not args.chat:
        raise ConfigError("--system is the system message of a chat; give --chat with it")
    read = make_reader(args)
    finished, count = find_finished(read(), args.output)  # every prompt is checked before anything is compiled
    if not count:
        raise ConfigError("there are no prompts; give --prompt=TEXT or --input=FILE")
    default = [] if args.gin_file else ["decoding/greedy.gin"]
    sampler, processors, proposer = setup.read_speculative(runtime.from_flags(args, setup.DECODING, default))
    if args.draft_run and (args.stop or args.log_probs is not None):
        raise ConfigError("speculative decoding has neither --stop nor --log_probs; leave them or --draft_run out")
    if proposer is not None and args.draft_run:
        raise ConfigError(
            f"--draft_run={args.draft_run} and PROPOSE of a gin file both propose tokens; give one of them"
        )
    options = inference.DecodingOptions(
        sampler,
        args.max_new_tokens,
        args.batch_size,
        args.seed,
        args.prefix,
        processors,
        args.samples,
        proposer,
        args.stop,
        args.log_probs,
    )
    run = setup.TrainedRun(
        args.run_dir, (), args.step, quantization=args.quantization, kv_cache_dtype=args.kv_cache_dtype
    )
    generation.check_generates(run.model)
    vocabulary, model = run.require_vocabulary(), run.model
    if args.amateur_run:
        model, params = setup.open_contrast(args.amateur_run, args.alpha, run)
    else:
        params = run.params(run.example_batch())
    if args.draft_run:
        options = dataclasses.replace(options, proposer=setup.open_draft(args.draft_run, args.draft_tokens, run))
    rows = count if options.in_batches else count * args.samples  # more would be computed for nothing
    options = dataclasses.replace(options, batch_size=min(args.batch_size, rows))
    results = inference.infer(model, params, vocabulary, read(), options, run.mesh, run.rules, finished)
    left = count - len(finished)
    failed = streams.write_results(track(results, "infer", left), args.output)
    return streams.report_failures(failed, left, "prompts")


def find_finished(prompts: Iterable[dict[str, Any]], output: PathLike | None) -> tuple[set[int], int]:
    """(indices of the prompts whose completions are in the output file, number of prompts); see `streams.find_finished`.

    The prompt of a chat is not compared, as it is not rendered yet.
    """
    return streams.find_finished(prompts, output, "infer", "completion", ["prompt"])


def make_reader(args: argparse.Namespace) -> Callable[[], Iterator[dict[str, Any]]]:
    """Returns a function that yields all prompts, those of the flags first. A file is read anew in each call, a pipe once."""
    from t5x_like import prompt_batches

    def read() -> Iterator[dict[str, Any]]:
        yield from ({"id": i, "prompt": text} for i, text in enumerate(args.prompt))
        yield from prompt_batches.read_prompts(args.input) if args.input else ()

    def render() -> Iterator[dict[str, Any]]:
        return (prompt_batches.to_chat(record, args.system) for record in read()) if args.chat else read()

    return streams.make_rereader(args.input, render)

"""Continues prompts with a trained run: text or JSONL in, JSONL out.

Give prompts with --prompt (repeatable) or --input FILE (.jsonl with "prompt" or "messages" fields, else one prompt a
line). How tokens are chosen comes from gin: --gin_file=decoding/greedy.gin (default), temperature, top_k or top_p.
"""

import argparse
import json
import sys
from collections.abc import Sequence

from t5x_like.cli.gin import runtime
from t5x_like.cli.gin.runtime import ConfigError


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="t5x_like infer", description=__doc__)
    parser.add_argument("--run_dir", required=True, help="directory of a run made by `t5x_like train`")
    parser.add_argument("--step", type=int, help="checkpoint to read (default: the newest)")
    parser.add_argument("--prompt", action="append", default=[], help="a prompt; may be given several times")
    parser.add_argument("--input", metavar="FILE", help="a file of prompts")
    parser.add_argument("--output", metavar="FILE", help="append results to this file and skip ids already in it")
    parser.add_argument("--max_new_tokens", type=int, default=128, help="(default: %(default)s)")
    parser.add_argument("--batch_size", type=int, default=8, help="prompts at a time (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the sampling (default: %(default)s)")
    parser.add_argument("--prefix", action="store_true", help="the run is a prefix LM: read prompts bidirectionally")
    parser.add_argument(
        "--chat", action="store_true", help="prompts are a user's messages to the model's chat template"
    )
    parser.add_argument("--system", metavar="TEXT", help="with --chat: the system's message before them")
    runtime.add_flags(parser)
    from t5x_like.cli import setup

    setup.add_flags(parser)
    args = runtime.parse_args(parser, argv)
    setup.initialize(args)
    return infer(args)


def infer(args: argparse.Namespace) -> int:
    """Runs the command; results go to the output file, or to standard output."""
    from t5x_like import inference
    from t5x_like.cli import setup
    from t5x_like.progress import track

    prompts = [{"id": i, "prompt": text} for i, text in enumerate(args.prompt)]
    prompts += list(inference.read_prompts(args.input)) if args.input else []
    if not prompts:
        raise ConfigError("there is nothing to continue; give --prompt=TEXT or --input=FILE")
    if args.system is not None and not args.chat:
        raise ConfigError("--system is the system's message of a chat; give --chat with it")
    if args.chat:
        prompts = [inference.to_chat(record, args.system) for record in prompts]
    done = finished_ids(args.output) if args.output else set()
    prompts = [record for record in prompts if json.dumps(record["id"]) not in done]
    sampler = runtime.parse(args.gin_file or ["decoding/greedy.gin"], args.gin_overrides).evaluate("%CHOOSE")
    options = inference.DecodingOptions(sampler, args.max_new_tokens, args.batch_size, args.seed, args.prefix)
    run = setup.TrainedRun(args.run_dir, (), args.step)
    seq2seq = run.model.encoder_decoder
    example = inference.encoder_batch([[0]], run.vocabulary) if seq2seq else inference.decoder_batch([[0]])
    params = run.params(example)
    results = inference.infer(run.model, params, run.vocabulary, prompts, options, run.mesh, run.rules)
    with open(args.output, "a") if args.output else sys.stdout as out:
        for result in track(results, "infer", len(prompts)):
            print(json.dumps(result, ensure_ascii=False), file=out, flush=True)
    return 0


def finished_ids(path: str) -> set[str]:
    """The ids that an output file already holds, as JSON."""
    try:
        with open(path, encoding="utf-8") as lines:
            return {json.dumps(json.loads(line)["id"]) for line in lines}
    except FileNotFoundError:
        return set()

"""Scores texts with a trained run, by the log-probabilities of their tokens: text or JSONL in, JSONL out.

Give documents with --text (repeatable), a --context with its --continuation (repeatable), or --input FILE: .jsonl with "context"
and "continuation", "prompt" and "completion" (as `infer` writes them), or "text" fields, otherwise one document per line. A
document is scored in windows that fill --max_length. Masked language models give pseudo-log-likelihoods, one token masked at a
time.

Names of control tokens (</s>, <extra_id_0>) in contexts and continuations are read as tokens; in documents they are text. A text
that cannot be scored gives a result with "error", and the others go on: the exit code is 1, or 2 if all failed.
"""

import argparse
import collections
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from t5x_like.cli import flags, streams
from t5x_like.cli.gin import runtime
from t5x_like.cli.gin.runtime import ConfigError
from t5x_like.files import lines
from t5x_like.types import PathLike


def main(argv: Sequence[str]) -> int:
    """Runs `t5x_like score`."""
    parser = flags.Parser(prog="t5x_like score", description=__doc__)
    flags.add_run(parser)
    parser.add_argument("--text", action="append", default=[], help="a document (repeatable)")
    parser.add_argument("--context", metavar="TEXT", help="what the continuations continue")
    parser.add_argument(
        "--continuation", action="append", default=[], metavar="TEXT", help="with --context (repeatable)"
    )
    parser.add_argument("--input", metavar="FILE", help="a file of records or documents")
    parser.add_argument("--output", metavar="FILE", help="append results to this file and skip the ids already in it")
    parser.add_argument("--tokens", action="store_true", help="add every token and its log-probability")
    parser.add_argument(
        "--top", type=flags.count, default=0, metavar="N", help="add the N most likely tokens at every token"
    )
    parser.add_argument(
        "--max_length",
        type=flags.length,
        metavar="N",
        help="tokens that the model reads; contexts lose their left (default: the position table, or the run's training rows)",
    )
    parser.add_argument(
        "--overlap",
        type=flags.length,
        default=1,
        metavar="N",
        help="tokens of a document that each window reads again as context (default: %(default)s)",
    )
    parser.add_argument("--batch_size", type=flags.positive, default=32, help="rows per batch (default: %(default)s)")
    parser.add_argument("--prefix", action="store_true", help="read contexts bidirectionally: an imported prefix LM")
    parser.add_argument(
        "--word_l2r", action="store_true", help="masked models: mask the rest of a word with each of its tokens"
    )
    flags.add_machine(parser)
    args = runtime.parse_args(parser, argv)
    if bool(args.continuation) != (args.context is not None):
        parser.error("give --context and --continuation together")
    from t5x_like.cli import setup

    setup.initialize(args)
    with streams.hold_output(args.output):
        return score(args)


def score(args: argparse.Namespace) -> int:
    """Writes the scores to the output file or standard output, and a summary to standard error; returns 1 if some texts failed.

    Raises:
      ConfigError: there is no text, or all failed.
    """
    from t5x_like.cli import setup
    from t5x_like.progress import track
    from t5x_like.scoring import rows, texts

    read = make_reader(args)
    names = [name for fields in texts.FIELDS for name in fields]
    finished, count = streams.find_finished(read(), args.output, "score", "log_prob", names)
    if not count:
        raise ConfigError("there are no texts; give --text=TEXT, --context with --continuation, or --input=FILE")
    run = setup.TrainedRun(args.run_dir, (), args.step)
    limits = rows.length_limits(run.model, args.max_length, run.row_lengths)
    options = texts.ScoringOptions(
        limits, args.batch_size, args.overlap, args.prefix or run.is_prefix_lm, args.word_l2r, args.tokens, args.top
    )
    vocabulary, params = run.require_vocabulary(), run.params(run.example_batch())
    results = texts.score(run.model, params, vocabulary, read(), options, run.mesh, run.rules, finished)
    totals: collections.Counter[str] = collections.Counter()
    for result in lines.read_records(args.output) if args.output else ():
        add_result(totals, result)
    left = count - len(finished)
    added = (add_result(totals, result) for result in track(results, "score", left))
    failed = streams.write_results(added, args.output)
    if totals["token_count"]:
        print(summarize(totals), file=sys.stderr)
    return streams.report_failures(failed, left, "texts")


def make_reader(args: argparse.Namespace) -> Callable[[], streams.Records]:
    """Returns a function that yields all records, those of the flags first. A file is read anew in each call, a pipe once."""

    def read() -> streams.Records:
        given = [{"text": text} for text in args.text]
        given += [{"context": args.context, "continuation": text} for text in args.continuation]
        yield from ({"id": i} | record for i, record in enumerate(given))
        yield from read_texts(args.input) if args.input else ()

    return streams.make_rereader(args.input, read)


def read_texts(path: PathLike) -> streams.Records:
    """Yields the records of a .jsonl file, or one document per line of any other file, one line in memory at a time.

    Raises:
      ConfigError: a line is not a record, with its number.
    """
    from t5x_like.scoring import texts

    is_jsonl = Path(path).suffix == ".jsonl"
    for number, line in enumerate(lines.read_lines(path), 1):
        if not is_jsonl:
            yield {"id": number - 1, "text": line}
            continue
        try:
            record = json.loads(line)
            yield {"id": record.get("id", number - 1)} | texts.texts_of(record)
        except (ValueError, AttributeError, RecursionError) as error:
            raise ConfigError(f"{path}, line {number}: {error}; got {line[:60]!r}") from error


def add_result(totals: collections.Counter[str], result: dict[str, Any]) -> dict[str, Any]:
    """Adds a result to the totals, unless it is an error, and returns it."""
    if "error" not in result:
        counts = {name: result[name] for name in ("log_prob", "token_count", "byte_count", "greedy")}
        totals.update({"texts": 1, "cut": result["dropped"] > 0} | counts)
    return result


def summarize(totals: Mapping[str, float]) -> str:
    """The totals of all results as one line."""
    from t5x_like.text_metrics import likelihood

    nats = -totals["log_prob"] / totals["token_count"]
    bits = -totals["log_prob"] / math.log(2) / totals["byte_count"]
    cut = f", {totals['cut']} contexts cut on the left" if totals["cut"] else ""
    return (
        f"score: {totals['texts']:,} texts, {totals['token_count']:,} tokens, {nats:.4f} nats per token (perplexity "
        f"{likelihood.exp(nats):.4f}), {bits:.4f} bits per byte, {totals['greedy']:,} texts greedy{cut}"
    )

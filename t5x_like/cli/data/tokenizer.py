"""Trains a tokenizer (`tokenizer train`), or measures one on a text (`tokenizer report`).

Input is text files, or .jsonl files with --field, also .gz and globs. Instead of --input, --task=NAME reads the texts of a
seqio task. The folder can be read by transformers and the tasks of t5x_like read (t5x_like.tasks.vocabularies.from_folder).
"""

import argparse
import functools
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from t5x_like.cli import flags
from t5x_like.cli.gin.runtime import ConfigError
from t5x_like.files import atomic

EXAMPLES = """examples:
  t5x_like tokenizer train --kind=bpe --vocab_size=32000 --chat --input 'text/*.jsonl.gz' --out=/tmp/bpe
  t5x_like tokenizer train --kind=sentencepiece_unigram --vocab_size=32100 --extra_ids=100 --input=a.txt --out=/tmp/t5
  t5x_like tokenizer train --kind=sentencepiece_bpe --vocab_size=8000 --task=python_docs_bytes --out=/tmp/docs
  t5x_like tokenizer report /tmp/bpe --input held_out.txt
  t5x_like tokenizer report /tmp/docs --task=python_docs_bytes --split=validation
"""


def main(argv: Sequence[str]) -> int:
    """Runs `t5x_like tokenizer train` or `t5x_like tokenizer report`."""
    from t5x_like.data.tokenizers import training as tokenizer_training

    shape = argparse.RawDescriptionHelpFormatter
    parser = flags.Parser(prog="t5x_like tokenizer", description=__doc__, epilog=EXAMPLES, formatter_class=shape)
    commands = parser.add_subparsers(dest="command", required=True, metavar="train | report")
    training = commands.add_parser("train", help="train a tokenizer on text")
    training.add_argument("--kind", required=True, help=", ".join(tokenizer_training.KINDS))
    training.add_argument(
        "--vocab_size", required=True, type=flags.positive, help="number of ids, including special tokens and sentinels"
    )
    training.add_argument("--out", required=True, help="folder to write; must not exist or be empty")
    training.add_argument(
        "--extra_ids", type=flags.count, default=0, help="number of T5 sentinels <extra_id_i> (default: %(default)s)"
    )
    training.add_argument("--chat", action="store_true", help="add <|im_start|>, <|im_end|> and the ChatML template")
    training.add_argument(
        "--pre_tokenizer", default="llama-bpe", help="pre-tokenizer of kind=bpe (default: %(default)s)"
    )
    training.add_argument("--lowercase", action="store_true", help="kind=wordpiece: ignore case and accents")
    reporting = commands.add_parser("report", help="measure tokens per byte and word, coverage and speed on a text")
    reporting.add_argument("folder", help="a tokenizer's folder")
    reporting.add_argument("--json", action="store_true", help="print one JSON object")
    for command in (training, reporting):
        source = command.add_mutually_exclusive_group(required=True)
        source.add_argument("--input", nargs="+", action="extend", help="files or globs")
        source.add_argument("--task", nargs="+", action="extend", help="seqio tasks whose texts are read")
        command.add_argument("--field", help="field of .jsonl lines (default: text)")
        command.add_argument("--module", help="module that registers --task (default: t5x_like.tasks.pretraining)")
        command.add_argument("--split", help="split of --task (default: train)")
    args = parser.parse_args(argv)
    (train if args.command == "train" else report)(args)
    return 0


def train(args: argparse.Namespace) -> None:
    """Trains a tokenizer; writes the folder under a temporary name, and renames it once it is complete."""
    from t5x_like.data.tokenizers import training

    out = Path(args.out).absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out={args.out} already exists; give a new folder, or remove it")
    if args.lowercase and args.kind != "wordpiece":
        raise ConfigError(f"--lowercase applies to --kind=wordpiece, not {args.kind}; remove it")
    options = training.Options(args.pre_tokenizer, args.lowercase)
    texts = read_texts(args, f"training {args.kind}")
    vocabulary = training.train(
        args.kind, texts, args.vocab_size, extra_ids=args.extra_ids, chat=args.chat, options=options
    )
    with atomic.new_folder(out) as partial:
        training.save(vocabulary, partial)
    print(f"{out}: {vocabulary.vocab_size} ids")
    if vocabulary.vocab_size < args.vocab_size:
        print(f"the text has no more pairs to merge: {vocabulary.vocab_size} of {args.vocab_size} ids", file=sys.stderr)


def report(args: argparse.Namespace) -> None:
    """Prints the size, compression, coverage and speed of a tokenizer on a text."""
    from t5x_like.data.tokenizers import folder, training

    if not Path(args.folder).is_dir():
        raise ConfigError(
            f"{args.folder} is not a folder; give one with tokenizer.json, spiece.model or tokenizer.model"
        )
    vocabulary = folder.read_folder(args.folder)
    facts = training.measure(vocabulary, read_texts(args, "encoding"))
    if args.json:
        print(json.dumps({"vocab_size": vocabulary.vocab_size} | facts))
        return
    print(f"ids               {vocabulary.vocab_size:,}")
    print(f"text              {facts['bytes']:,} bytes, {facts['words']:,} words")
    print(f"tokens            {facts['tokens']:,}")
    print(f"tokens per byte   {facts['tokens_per_byte']:.4f}")
    print(f"tokens per word   {facts['tokens_per_word']:.4f}")
    print(f"coverage          {facts['coverage']:.4%} ({facts['unknown']:,} unknown)")
    print(f"time              {facts['seconds']:.2f} s, {facts['bytes_per_second'] / 1e6:.1f} MB/s")


def read_texts(args: argparse.Namespace, label: str) -> Iterator[str]:
    """Yields the texts of the files or tasks, with a progress bar on a terminal and a summary line."""
    from t5x_like.cleaning import reading as cleaning_reading
    from t5x_like.data.tokenizers import training

    unused = [name for name in (("field",) if args.task else ("module", "split")) if getattr(args, name)]
    if unused:
        raise ConfigError(f"--{unused[0]} does not apply to --{'task' if args.task else 'input'}; remove it")
    if args.task:
        from t5x_like.tasks.caching import texts

        read = functools.partial(
            texts.read_texts, split=args.split or "train", module=args.module or "t5x_like.tasks.pretraining"
        )
        return track_sources([read(name) for name in args.task], "tasks", label)
    paths = cleaning_reading.find_files(args.input)
    return track_sources([training.read_texts([path], args.field or "text") for path in paths], "files", label)


def track_sources(sources: list[Iterator[str]], kind: str, label: str) -> Iterator[str]:
    """Yields the texts of all sources, with a progress bar over the sources."""
    from rich.console import Console
    from rich.progress import Progress

    console, size = Console(stderr=True), 0
    with Progress(console=console, disable=not console.is_terminal) as progress:
        for texts in progress.track(sources, description=label):
            for text in texts:
                size += len(text)
                yield text
    console.print(f"{label}: {len(sources)} {kind}, {size:,} characters read", highlight=False)

"""Tokenizers: `tokenizer train --kind=bpe --vocab_size=N --input FILES --out=FOLDER`, `tokenizer report FOLDER --input FILES`.

Input is text files, or .jsonl files with --field; .gz too, and globs. In place of --input, --task=NAME takes the texts of a
seqio task. The folder is one that transformers and the tasks of t5x_like read (t5x_like.tasks.vocabularies.from_folder).
"""

import argparse
import functools
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from t5x_like.cli.gin.runtime import ConfigError

EXAMPLES = """examples:
  t5x_like tokenizer train --kind=bpe --vocab_size=32000 --chat --input 'text/*.jsonl.gz' --out=/tmp/bpe
  t5x_like tokenizer train --kind=sentencepiece_unigram --vocab_size=32100 --extra_ids=100 --input=a.txt --out=/tmp/t5
  t5x_like tokenizer train --kind=sentencepiece_bpe --vocab_size=8000 --task=python_docs_bytes --out=/tmp/docs
  t5x_like tokenizer report /tmp/bpe --input held_out.txt
  t5x_like tokenizer report /tmp/docs --task=python_docs_bytes --split=validation
"""


def main(argv: Sequence[str]) -> int:
    from t5x_like.data.tokenizers import training as tokenizer_training

    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="t5x_like tokenizer", description=__doc__, epilog=EXAMPLES, formatter_class=shape
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="train | report")
    training = commands.add_parser("train", help="learns a tokenizer from text")
    training.add_argument("--kind", required=True, help=", ".join(tokenizer_training.KINDS))
    training.add_argument("--vocab_size", required=True, type=int, help="all ids, special tokens and sentinels too")
    training.add_argument("--out", required=True, help="folder that is written; must not be there yet")
    training.add_argument("--extra_ids", type=int, default=0, help="T5's sentinels <extra_id_i> (default: %(default)s)")
    training.add_argument("--chat", action="store_true", help="<|im_start|>, <|im_end|> and the ChatML template")
    training.add_argument(
        "--pre_tokenizer", default="llama-bpe", help="how kind=bpe splits text (default: %(default)s)"
    )
    training.add_argument("--lowercase", action="store_true", help="kind=wordpiece ignores case and accents")
    reporting = commands.add_parser("report", help="tokens per byte and word, coverage and speed on a text")
    reporting.add_argument("folder", help="a tokenizer's folder")
    reporting.add_argument("--json", action="store_true", help="the numbers as one JSON object")
    for command in (training, reporting):
        source = command.add_mutually_exclusive_group(required=True)
        source.add_argument("--input", nargs="+", action="extend", help="files or globs")
        source.add_argument("--task", nargs="+", action="extend", help="seqio tasks: their texts before tokenization")
        command.add_argument("--field", help="field of .jsonl lines (default: text)")
        command.add_argument("--module", help="that registers --task (default: t5x_like.tasks.pretraining)")
        command.add_argument("--split", help="of --task (default: train)")
    args = parser.parse_args(argv)
    (train if args.command == "train" else report)(args)
    return 0


def train(args: argparse.Namespace) -> None:
    """Writes the folder beside its place, and moves it there when it is complete."""
    from t5x_like.data.tokenizers import training

    out = Path(args.out).absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out={args.out} is there already; give a new folder, or remove it")
    if args.lowercase and args.kind != "wordpiece":
        raise ConfigError(f"--lowercase is for --kind=wordpiece, not {args.kind}; leave it out")
    options = training.Options(args.pre_tokenizer, args.lowercase)
    texts = reading(args, f"training {args.kind}")
    made = training.train(args.kind, texts, args.vocab_size, extra_ids=args.extra_ids, chat=args.chat, options=options)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".partial", dir=out.parent))
    try:
        training.save(made, partial)
        partial.chmod(0o755)
        if out.exists():
            out.rmdir()
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    print(f"{out}: {made.vocab_size} ids")
    if made.vocab_size < args.vocab_size:
        print(f"the text has no more to merge: {made.vocab_size} ids of {args.vocab_size}", file=sys.stderr)


def report(args: argparse.Namespace) -> None:
    """Prints how a tokenizer fits a text."""
    from t5x_like.data.tokenizers import folder, training

    if not Path(args.folder).is_dir():
        raise ConfigError(f"{args.folder} is no folder; give one with tokenizer.json, spiece.model or tokenizer.model")
    vocabulary = folder.read_folder(args.folder)
    found = training.measure(vocabulary, reading(args, "encoding"))
    if args.json:
        print(json.dumps({"vocab_size": vocabulary.vocab_size} | found))
        return
    print(f"ids               {vocabulary.vocab_size:,}")
    print(f"text              {found['bytes']:,} bytes, {found['words']:,} words")
    print(f"tokens            {found['tokens']:,}")
    print(f"tokens per byte   {found['tokens_per_byte']:.4f}")
    print(f"tokens per word   {found['tokens_per_word']:.4f}")
    print(f"coverage          {found['coverage']:.4%} ({found['unknown']:,} unknown)")
    print(f"time              {found['seconds']:.2f} s, {found['bytes_per_second'] / 1e6:.1f} MB/s")


def reading(args: argparse.Namespace, what: str) -> Iterator[str]:
    """The texts of the files or tasks, with a bar on a terminal and a last line elsewhere."""
    from t5x_like.cleaning import reading as cleaning_reading
    from t5x_like.data.tokenizers import training

    stray = [name for name in (("field",) if args.task else ("module", "split")) if getattr(args, name)]
    if stray:
        raise ConfigError(f"--{stray[0]} says nothing of --{'task' if args.task else 'input'}; leave it out")
    if args.task:
        from t5x_like.tasks.caching import texts

        read = functools.partial(
            texts.read_texts, split=args.split or "train", module=args.module or "t5x_like.tasks.pretraining"
        )
        return shown([read(name) for name in args.task], "tasks", what)
    paths = cleaning_reading.find_files(args.input)
    return shown([training.read_texts([path], args.field or "text") for path in paths], "files", what)


def shown(sources: list[Iterator[str]], kind: str, what: str) -> Iterator[str]:
    """The texts of the sources."""
    from rich.console import Console
    from rich.progress import Progress

    console, size = Console(stderr=True), 0
    with Progress(console=console, disable=not console.is_terminal) as progress:
        for texts in progress.track(sources, description=what):
            for text in texts:
                size += len(text)
                yield text
    console.print(f"{what}: {len(sources)} {kind}, {size:,} characters read", highlight=False)

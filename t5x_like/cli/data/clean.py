"""Cleans text with a gin pipeline: `clean --gin_file=cleaning/fineweb.gin --input 'data/*.jsonl.zst' --out=FOLDER`.

Writes one shard per input file, report.html (kept and dropped examples by rule), report.json, and rejects.jsonl (file and number
of each record that cannot be read or makes a step fail, if there are any). The same command resumes an interrupted run.
Pipelines are gin_configs/cleaning/*.gin; set a threshold with --gin.gopher.GopherQuality.min_words=20.
"""

import argparse
import dataclasses
import functools
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from t5x_like import interrupts, locks
from t5x_like.cli import flags
from t5x_like.cli.gin import runtime
from t5x_like.cli.gin.runtime import ConfigError

if TYPE_CHECKING:
    from t5x_like.cleaning import run

EXAMPLES = """examples:
  t5x_like clean --gin_file=cleaning/fineweb.gin --input 'crawl/*.warc.gz' --out=/tmp/clean
  t5x_like clean --gin_file=cleaning/code.gin --whole_files --input 'src/**/*.py' --against test.jsonl --out=/tmp/code
  t5x_like clean --train_classifier good=good.jsonl poor=poor.jsonl --out=/tmp/quality.npz
"""


def main(argv: Sequence[str]) -> int:
    """Runs `t5x_like clean`."""
    shape = argparse.RawDescriptionHelpFormatter
    parser = flags.Parser(prog="t5x_like clean", description=__doc__, epilog=EXAMPLES, formatter_class=shape)
    parser.add_argument("--input", nargs="+", action="extend", default=[], help="files or globs; formats may differ")
    parser.add_argument("--out", required=True, help="folder of the shards, or file of the classifier")
    parser.add_argument("--field", default="text", help="field of the text (default: %(default)s)")
    parser.add_argument("--whole_files", action="store_true", help="read each file as one document")
    parser.add_argument("--trafilatura", action="store_true", help="extract the main text of HTML with trafilatura")
    parser.add_argument(
        "--suffix", default=".jsonl.zst", help="suffix of shards: .jsonl, .jsonl.gz or .jsonl.zst (default)"
    )
    parser.add_argument(
        "--workers",
        type=flags.positive,
        default=os.cpu_count(),
        help="number of processes (default: one per core, %(default)s)",
    )
    parser.add_argument(
        "--word_list", metavar="FILE", help="also drop documents that contain a word of this list (one per line)"
    )
    parser.add_argument(
        "--against",
        nargs="+",
        metavar="FILE",
        help="also drop documents that share 13 words with these test items; overlaps go to contamination.json",
    )
    parser.add_argument(
        "--train_classifier",
        nargs="+",
        metavar="LABEL=FILE",
        help="instead train a classifier with two or more labels, for cleaning/gpt3.gin",
    )
    parser.add_argument("--characters", action="store_true", help="classifier on character n-grams, for languages")
    runtime.add_flags(parser)
    args = runtime.parse_args(parser, argv)
    try:
        resumable = "" if args.train_classifier else "stopped; the same command resumes after the last finished file"
        with locks.hold(out_lock(args), f"--out={args.out}"), interrupts.explain(resumable):
            (train if args.train_classifier else clean)(args)
    except ImportError as error:
        raise ConfigError(str(error)) from error
    return 0


def out_lock(args: argparse.Namespace) -> Path:
    """The lock of --out: in the folder, or beside the classifier's file."""
    from t5x_like.cleaning import run

    return locks.beside(args.out) if args.train_classifier else Path(args.out) / run.LOCK


def clean(args: argparse.Namespace) -> None:
    """Runs the pipeline and prints its summary.

    Raises:
      ConfigError: flags that are missing or do not apply.
    """
    from t5x_like.cleaning import reading, run
    from t5x_like.progress import ProgressBar

    if not args.gin_file or not args.input:
        raise ConfigError("--gin_file and --input are needed: a pipeline (cleaning/c4.gin) and the files to clean")
    if args.characters:
        raise ConfigError("--characters applies to --train_classifier; remove it")
    pipeline, inputs = runtime.from_flags(args, ["PIPELINE"]).evaluate("%PIPELINE"), reading.find_files(args.input)
    test_items = read_test_items(args.against) if args.against else {}
    pipeline = dataclasses.replace(pipeline, steps=(*pipeline.steps, *extra_steps(args, test_items)))
    job = run.Job(pipeline, tuple(inputs), Path(args.out), args.suffix, make_reader(args, inputs))
    workers = min(args.workers, len(inputs))
    with ProgressBar("clean", (len(job.stateful_steps) + 1) * len(inputs)) as bar:
        report = run.run(job, workers, lambda done, total, message: bar.advance(done, message))
    if test_items:
        write_overlap(job, test_items, workers)
    names = ["report.html", "report.json", *filter(None, [report.rejects_file])]
    print(f"{report.summary()}\n{job.out}: {len(inputs)} shards, {', '.join(names)}")


def make_reader(args: argparse.Namespace, inputs: Sequence[Path]) -> Callable:
    """Returns the function that reads one file; raises an error for a file without a reader."""
    from t5x_like.cleaning import html_text, reading

    if args.whole_files:
        return functools.partial(reading.read, reader=reading.read_whole_file)
    for path in inputs:
        reading.find_reader(path)
    if args.trafilatura:
        html_text.extract_with_trafilatura("")
        return functools.partial(reading.read, field=args.field, extract=html_text.extract_with_trafilatura)
    return functools.partial(reading.read, field=args.field)


def extra_steps(args: argparse.Namespace, test_items: dict[str, str]) -> list:
    """The pipeline steps of --word_list and --against."""
    from t5x_like.cleaning.contamination import Decontaminate
    from t5x_like.cleaning.word_list import WordList, read_word_list

    steps: list = [WordList(read_word_list(args.word_list))] if args.word_list else []
    return steps + ([Decontaminate(test_items)] if test_items else [])


def read_test_items(patterns: Sequence[str]) -> dict[str, str]:
    """Reads the test items of files: every text field of every record, by name.

    Raises:
      ConfigError: a record that cannot be read, or no text at all.
    """
    from t5x_like.cleaning import reading
    from t5x_like.cleaning.steps import Dropped

    items: dict[str, str] = {}
    for path in reading.find_files(patterns):
        for record in reading.read(path, field=None):
            if isinstance(record, Dropped):
                raise ConfigError(f"--against={path}: {record.rule}, {record.detail}; every test item must be readable")
            texts = {name: value for name, value in record.items() if name != "id" and isinstance(value, str)}
            items |= {f"{path.name} {record['id']} {name}": value for name, value in texts.items()}
    if not items:
        raise ConfigError(f"--against={' '.join(patterns)} has no text; give files of test items")
    return items


def write_overlap(job: "run.Job", test_items: dict[str, str], workers: int) -> None:
    """Writes contamination.json, the overlap of test items with the uncleaned inputs, and prints a summary."""
    from t5x_like.cleaning import contamination

    shares = contamination.measure_overlap_of_files(job.inputs, job.read, test_items, workers=workers)
    path = job.out / "contamination.json"
    overlap = {name: {n: shares[n][name] for n in shares} for name in test_items if shares[8][name] > 0}
    path.write_text(json.dumps(overlap, indent=1, ensure_ascii=False), encoding="utf-8")
    exact = sum(share > 0 for share in shares[13].values())
    partial = sum(share >= 0.7 for share in shares[8].values())
    print(f"{len(test_items)} test items: {exact} share 13 words with the inputs, {partial} 70% of their 8-grams")


def train(args: argparse.Namespace) -> None:
    """Trains a classifier on 9 of 10 documents, prints its accuracy on the others, and writes it.

    Raises:
      ConfigError: flags that do not apply.
    """
    from t5x_like.cleaning import ngram_classifier, reading
    from t5x_like.cleaning.steps import Dropped

    if args.input or args.gin_file or args.against or args.word_list:
        raise ConfigError("--train_classifier takes no pipeline and no input other than LABEL=FILE ...")
    labelled: list[tuple[str, str]] = []
    for pair in args.train_classifier:
        label, equals, pattern = pair.partition("=")
        if not equals:
            raise ConfigError(f"--train_classifier {pair}: give LABEL=FILE, as in good=good.jsonl")
        for path in reading.find_files([pattern]):
            documents = (document for document in reading.read(path, args.field) if not isinstance(document, Dropped))
            labelled += [(document["text"], label) for document in documents if isinstance(document["text"], str)]
    training = [pair for index, pair in enumerate(labelled) if index % 10]
    held_out = labelled[::10]
    features = ngram_classifier.CharacterNgrams() if args.characters else ngram_classifier.WordNgrams()
    texts, labels = [text for text, _ in training], [label for _, label in training]
    classifier = ngram_classifier.train(texts, labels, features)
    correct = sum(classifier.classify(text)[0] == label for text, label in held_out)
    classifier.save(args.out)
    print(f"{args.out}: {', '.join(classifier.labels)}; {correct} of {len(held_out)} held-out documents are correct")

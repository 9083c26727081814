"""Cleans text by a gin-composed pipeline: `clean --gin_file=cleaning/fineweb.gin --input 'data/*.jsonl.zst' --out=FOLDER`.

Writes one shard for each input file, report.html (kept and dropped examples by rule) and report.json. The same command goes
on where it was stopped. Pipelines are gin_configs/cleaning/*.gin; a threshold is --gin.gopher.GopherQuality.min_words=20.
"""

import argparse
import dataclasses
import functools
import json
import os
from collections.abc import Sequence
from pathlib import Path

from t5x_like.cli.gin import runtime
from t5x_like.cli.gin.runtime import ConfigError

EXAMPLES = """examples:
  t5x_like clean --gin_file=cleaning/fineweb.gin --input 'crawl/*.warc.gz' --out=/tmp/clean
  t5x_like clean --gin_file=cleaning/code.gin --whole_files --input 'src/**/*.py' --against test.jsonl --out=/tmp/code
  t5x_like clean --train_classifier good=good.jsonl poor=poor.jsonl --out=/tmp/quality.npz
"""


def main(argv: Sequence[str]) -> int:
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="t5x_like clean", description=__doc__, epilog=EXAMPLES, formatter_class=shape)
    parser.add_argument(
        "--input", nargs="+", action="extend", default=[], help="files or globs, in any mixture of formats"
    )
    parser.add_argument("--out", required=True, help="folder of the shards; or the classifier's file")
    parser.add_argument("--field", default="text", help="field that holds the text (default: %(default)s)")
    parser.add_argument("--whole_files", action="store_true", help="each file is one document, whatever its suffix")
    parser.add_argument(
        "--trafilatura", action="store_true", help="text of HTML by trafilatura, without menus and the like"
    )
    parser.add_argument("--suffix", default=".jsonl.zst", help="of shards: .jsonl, .jsonl.gz or .jsonl.zst (default)")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count(), help="processes (default: one a core, %(default)s)"
    )
    parser.add_argument("--word_list", metavar="FILE", help="also drop documents with a word of this list, one a line")
    parser.add_argument(
        "--against",
        nargs="+",
        metavar="FILE",
        help="also drop documents with 13 words of these test items, and write contamination.json about 8 and 13 words",
    )
    parser.add_argument(
        "--train_classifier",
        nargs="+",
        metavar="LABEL=FILE",
        help="train a classifier of two or more labels instead, for cleaning/gpt3.gin",
    )
    parser.add_argument(
        "--characters", action="store_true", help="the classifier is of languages, by character n-grams"
    )
    runtime.add_flags(parser)
    args = runtime.parse_args(parser, argv)
    try:
        (train if args.train_classifier else clean)(args)
    except ImportError as error:
        raise ConfigError(str(error)) from error
    return 0


def clean(args: argparse.Namespace) -> None:
    """Runs the pipeline and prints what it did."""
    from t5x_like.cleaning import reading, run
    from t5x_like.progress import ProgressBar

    if not args.gin_file or not args.input:
        raise ConfigError("--gin_file and --input are needed: a pipeline (cleaning/c4.gin) and the files to clean")
    if args.characters:
        raise ConfigError("--characters is for --train_classifier; leave it out")
    pipeline, inputs = runtime.from_flags(args).evaluate("%PIPELINE"), reading.find_files(args.input)
    test_items = items(args.against) if args.against else {}
    pipeline = dataclasses.replace(pipeline, steps=(*pipeline.steps, *added_steps(args, test_items)))
    job = run.Job(pipeline, tuple(inputs), Path(args.out), args.suffix, reader(args, inputs))
    workers = min(args.workers, len(inputs))
    with ProgressBar("clean", (len(job.stateful_steps) + 1) * len(inputs)) as bar:
        report = run.run(job, workers, lambda done, total, what: bar.advance(done, what))
    if test_items:
        write_overlap(job, test_items, workers)
    print(f"{report.summary()}\n{job.out}: {len(inputs)} shards, report.html, report.json")


def reader(args: argparse.Namespace, inputs: Sequence[Path]):
    """The function that reads one file."""
    from t5x_like.cleaning import html_text, reading

    if args.whole_files:
        return functools.partial(reading.read, reader=reading.read_whole_file)
    for path in inputs:
        reading.find_reader(path)
    if args.trafilatura:
        html_text.extract_with_trafilatura("")
        return functools.partial(reading.read, field=args.field, extract=html_text.extract_with_trafilatura)
    return functools.partial(reading.read, field=args.field)


def added_steps(args: argparse.Namespace, test_items: dict[str, str]) -> list:
    """The steps that flags add to a pipeline."""
    from t5x_like.cleaning.contamination import Decontaminate
    from t5x_like.cleaning.word_list import WordList, read_word_list

    words = [WordList(read_word_list(args.word_list))] if args.word_list else []
    return words + ([Decontaminate(test_items)] if test_items else [])


def items(patterns: Sequence[str]) -> dict[str, str]:
    """The test items of files: every text of every record."""
    from t5x_like.cleaning import reading
    from t5x_like.cleaning.steps import Dropped

    found = {}
    for path in reading.find_files(patterns):
        for record in reading.read(path, field=None):
            if isinstance(record, Dropped):
                raise ConfigError(f"--against={path}: {record.rule}, {record.detail}; test items must be read whole")
            texts = {name: value for name, value in record.items() if name != "id" and isinstance(value, str)}
            found |= {f"{path.name} {record['id']} {name}": value for name, value in texts.items()}
    if not found:
        raise ConfigError(f"--against={' '.join(patterns)} holds no text; give files of test items")
    return found


def write_overlap(job, test_items: dict[str, str], workers: int) -> None:
    """Says which test items the inputs hold, before anything is dropped."""
    from t5x_like.cleaning import contamination

    shares = contamination.measure_overlap_of_files(job.inputs, job.read, test_items, workers=workers)
    path = job.out / "contamination.json"
    found = {name: {n: shares[n][name] for n in shares} for name in test_items if shares[8][name] > 0}
    path.write_text(json.dumps(found, indent=1, ensure_ascii=False), encoding="utf-8")
    dirty = sum(share > 0 for share in shares[13].values()), sum(share >= 0.7 for share in shares[8].values())
    print(f"{len(test_items)} test items: {dirty[0]} share 13 words with the inputs, {dirty[1]} 70% of their 8-grams")


def train(args: argparse.Namespace) -> None:
    """Trains a classifier on nine of ten documents, prints its accuracy on the others and writes it."""
    from t5x_like.cleaning import ngram_classifier, reading
    from t5x_like.cleaning.steps import Dropped

    if args.input or args.gin_file or args.against or args.word_list:
        raise ConfigError("--train_classifier takes no pipeline and no input but its own: LABEL=FILE ...")
    labelled = []
    for pair in args.train_classifier:
        label, equals, pattern = pair.partition("=")
        if not equals:
            raise ConfigError(f"--train_classifier {pair}: give LABEL=FILE, as in good=good.jsonl")
        for path in reading.find_files([pattern]):
            found = (document for document in reading.read(path, args.field) if not isinstance(document, Dropped))
            labelled += [(document["text"], label) for document in found if isinstance(document["text"], str)]
    kept = [pair for place, pair in enumerate(labelled) if place % 10]
    held_out = labelled[::10]
    features = ngram_classifier.CharacterNgrams() if args.characters else ngram_classifier.WordNgrams()
    classifier = ngram_classifier.train(*map(list, zip(*kept, strict=True)) if kept else ([], []), features)
    right = sum(classifier.classify(text)[0] == label for text, label in held_out)
    classifier.save(args.out)
    print(f"{args.out}: {', '.join(classifier.labels)}; {right} of {len(held_out)} documents held out are right")

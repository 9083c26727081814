"""Documents per second on one core: Gopher's and C4's rules here and in datatrove, on the same text in the same process.

The text is Python's own: the language reference, the docstrings of every library module, and the modules' sources. Every
filter sees every document, so both sides do the same work. datatrove splits words with spaCy; "datatrove, by white space"
uses our words and sentences instead, so that only the rules differ. The benchmark prints the agreement per filter; where they
differ, datatrove drops short texts for a most frequent n-gram that occurs once, excludes punctuation words from the mean
length, and skips overlapping repeated n-grams whose words we count. Without datatrove (pip install datatrove spacy) only our
side is measured.
"""

import argparse
import ast
import gzip
import json
import os
import random
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import report
from t5x_like.cleaning import run
from t5x_like.cleaning.c4 import C4, SENTENCE_END
from t5x_like.cleaning.dedup import ExactDedup
from t5x_like.cleaning.gopher import GopherQuality
from t5x_like.cleaning.hashing import split_words
from t5x_like.cleaning.minhash import MinHash, NearDedup
from t5x_like.cleaning.pii import RedactPII
from t5x_like.cleaning.pipeline import Pipeline
from t5x_like.cleaning.repetition import GopherRepetition
from t5x_like.cleaning.report import Report
from t5x_like.cleaning.steps import Dropped

TERMINAL = (*C4().terminal, "'")  # datatrove's, so that both sides do the same
STEPS = {"gopher repetition": GopherRepetition(), "gopher quality": GopherQuality(), "c4": C4(terminal=TERMINAL)}
EXCLUDED = {"test", "tests", "site-packages", "__pycache__", "pydoc_data", "lib2to3"}


def texts() -> list[str]:
    """The topics of the language reference, then docstrings and source of each module."""
    from pydoc_data.topics import topics

    documents = list(topics.values())
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        if not EXCLUDED & set(path.relative_to(root).parts):
            source = path.read_text(encoding="utf-8", errors="replace")
            documents += [docstrings(source), source]
    return [text for text in documents if text.strip()]


def docstrings(source: str) -> str:
    """All docstrings of a module."""
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError):
        return ""
    documented = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Module)
    return "\n\n".join(ast.get_docstring(node) or "" for node in nodes if isinstance(node, documented))


def run_ours(documents: list[str]) -> dict[str, list[bool]]:
    """Which documents each of our steps keeps."""
    return {
        name: [not isinstance(step({"text": text, "id": ""}), Dropped) for text in documents]
        for name, step in STEPS.items()
    }


def whitespace_tokenizer(language: str) -> SimpleNamespace:
    """datatrove's tokenizer interface with our words and sentences."""

    def spans(text: str) -> list[tuple[int, int]]:
        ends = [match.end() for match in SENTENCE_END.finditer(text)] or [len(text)]
        return list(zip([0, *ends], ends, strict=False))

    return SimpleNamespace(word_tokenize=str.split, span_tokenize=spans)


def make_datatrove_side(documents: list[str], tokenizer: Callable | None) -> Callable[[], dict[str, list[bool]]]:
    """A function that runs datatrove's filters."""
    from datatrove.data import Document
    from datatrove.pipeline.filters import C4QualityFilter, GopherQualityFilter, GopherRepetitionFilter
    from datatrove.utils import word_tokenizers

    filters = (GopherRepetitionFilter(), GopherQualityFilter(), C4QualityFilter())
    load = tokenizer or word_tokenizers.load_word_tokenizer

    def side() -> dict[str, list[bool]]:
        word_tokenizers.load_word_tokenizer, before = load, word_tokenizers.load_word_tokenizer
        try:
            return {
                name: [each.filter(Document(text=text, id="")) is True for text in documents]
                for name, each in zip(STEPS, filters, strict=True)
            }
        finally:
            word_tokenizers.load_word_tokenizer = before

    return side


def measure_agreement(one: dict[str, list[bool]], other: dict[str, list[bool]]) -> dict[str, float]:
    """By filter, the share of documents on which two sides agree."""
    alike = {name: [a == b for a, b in zip(one[name], other[name], strict=True)] for name in one}
    return {name: sum(same) / len(same) for name, same in alike.items()}


def parts(documents: list[str]) -> dict[str, Callable[[], object]]:
    """The speed of our other steps."""
    pipeline, redact, minhash = Pipeline(tuple(STEPS.values())), RedactPII(), MinHash()
    return {
        "pipeline with report": lambda: list(pipeline(({"text": text} for text in documents), Report())),
        "pii": lambda: [redact({"text": text}) for text in documents],
        "minhash signature": lambda: [minhash.signature(text) for text in documents],
    }


def figures(seconds: list[tuple[float, float]], documents: list[str]) -> dict[str, float]:
    """Documents and megabytes per second of CPU time: median, slowest and fastest round."""
    rates = report.summarize([len(documents) / cpu for _, cpu in seconds])
    megabytes = sum(map(len, documents)) / 1e6
    return {"documents/s": rates["median"], "min": rates["min"], "max": rates["max"]} | {
        "MB/s": rates["median"] * megabytes / len(documents)
    }


def replace_words(text: str, share: float, drawn: random.Random) -> str:
    """The text with a share of its words replaced."""
    words = text.split()
    return " ".join(f"w{drawn.getrandbits(40)}" if drawn.random() < share else word for word in words)


def true_jaccard(one: str, other: str) -> float:
    """The exact Jaccard index of the sets of five-word shingles."""
    left, right = ({tuple(words[i : i + 5]) for i in range(len(words) - 4)} for words in map(split_words, (one, other)))
    return len(left & right) / max(len(left | right), 1)


Pair = tuple[float, bool]  # true Jaccard index of a planted copy and its original, and whether it was dropped


def planted_copies(documents: list[str]) -> list[Pair]:
    """Copies of every text of 50 to 5000 words, with an increasing share of words replaced."""
    drawn, dedup = random.Random(0), NearDedup()
    pairs = []
    for text in (text for text in documents if 50 <= len(split_words(text)) < 5000):
        for share in (0.002, 0.005, 0.01, 0.02, 0.04, 0.1):
            copy = replace_words(text, share, drawn)
            pairs.append((true_jaccard(text, copy), drops_copy(dedup, text, copy)))
    return pairs


def by_index(pairs: list[Pair]) -> dict[str, dict[str, float]]:
    """The share of dropped copies, by their index."""
    hits_by_range: dict[str, list[bool]] = {"below 0.7": [], "0.7 to 0.8": [], "0.8 to 0.9": [], "0.9 and above": []}
    for exact, hit in pairs:
        hits_by_range[list(hits_by_range)[sum(exact >= bound for bound in (0.7, 0.8, 0.9))]].append(hit)
    return {name: {"pairs": len(hits), "found": sum(hits) / max(len(hits), 1)} for name, hits in hits_by_range.items()}


def recall_and_precision(pairs: list[Pair]) -> dict[str, dict[str, float]]:
    """Recall of copies at or above an index that should be dropped, and precision of the drops."""
    rows = {}
    for bound in (NearDedup().threshold, 0.8, 0.9):
        expected = [hit for exact, hit in pairs if exact >= bound]
        dropped = [exact >= bound for exact, hit in pairs if hit]
        rows[f"copies of index >= {bound:g}"] = {
            "recall": sum(expected) / max(len(expected), 1),
            "precision": sum(dropped) / max(len(dropped), 1),
        }
    return rows


def drops_copy(dedup: NearDedup, text: str, copy: str) -> bool:
    """Whether a copy is dropped after its original."""
    step = dedup.start()
    step({"text": text, "id": "original"})
    return isinstance(step({"text": copy, "id": "copy"}), Dropped)


COMMAND = Pipeline((RedactPII(), GopherRepetition(), GopherQuality(), ExactDedup(), NearDedup()))


def measure_runs(documents: list[str], shards: int = 8) -> dict[str, dict[str, float]]:
    """Documents per second of whole runs over .jsonl.gz files, by wall time and by total CPU time."""
    rows, megabytes = {}, sum(map(len, documents)) / 1e6
    with tempfile.TemporaryDirectory() as folder:
        inputs = tuple(Path(folder) / f"{shard}.jsonl.gz" for shard in range(shards))
        for shard, path in enumerate(inputs):
            with gzip.open(path, "wt", encoding="utf-8") as file:
                file.writelines(json.dumps({"text": text}) + "\n" for text in documents[shard::shards])
        for workers in (1, 2):
            started, cpu = time.perf_counter(), cpu_seconds()
            run.run(run.Job(COMMAND, inputs, Path(folder) / str(workers), ".jsonl.gz"), workers)
            seconds, cpu = time.perf_counter() - started, cpu_seconds() - cpu
            rates = {"documents/s": len(documents) / seconds, "MB/s": megabytes / seconds}
            rows[f"workers: {workers}"] = rates | {"documents/CPU s": len(documents) / cpu}
    return rows


def cpu_seconds() -> float:
    """CPU time of this process and of its finished children."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def main() -> None:
    """Prints the table, the agreement and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=600, help="number of documents, spread over the corpus")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    every = texts()
    documents = every[:: max(len(every) // arguments.documents, 1)][: arguments.documents]
    sides = {"t5x_like": lambda: run_ours(documents)}
    try:
        sides["datatrove"] = make_datatrove_side(documents, None)
        sides["datatrove, by white space"] = make_datatrove_side(documents, whitespace_tokenizer)
    except ImportError as error:
        print(f"datatrove cannot be imported ({error}): measuring only our side")
    kept = {name: side() for name, side in sides.items()}
    seconds = report.time_interleaved({**sides, **parts(documents)}, arguments.rounds, warmup=0)
    rows = {name: figures(found, documents) for name, found in seconds.items()}
    report.print_table(f"Gopher and C4 rules, {len(documents)} documents, one core", rows)
    agreement = {name: measure_agreement(kept["t5x_like"], found) for name, found in kept.items() if name != "t5x_like"}
    if agreement:
        report.print_table("Agreement with us", agreement)
    pairs = planted_copies(documents)
    copies, quality, runs = by_index(pairs), recall_and_precision(pairs), measure_runs(every)
    report.print_table("Planted near copies dropped, by their Jaccard index (threshold 0.75)", copies)
    report.print_table("Planted near copies: recall and precision", quality)
    report.print_table(f"Whole runs over files, {len(every)} documents in 8 files", runs)
    report.print_json(
        documents=len(documents), rates=rows, agreement=agreement, near_copies=copies, judged=quality, whole_runs=runs
    )


if __name__ == "__main__":
    main()

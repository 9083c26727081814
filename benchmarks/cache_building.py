"""Tokens per second of building a token cache from JSONL files, compared with the tokenizer's library on the same texts.

The library gets the texts in memory and two threads. Building a cache includes reading the files and computing checksums of
the output; it runs with one and with two processes, interleaved with the library. Importing TensorFlow, once per build, is
timed separately.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["RAYON_NUM_THREADS"] = "2"

import numpy as np

import report
from t5x_like.cli.data import tokenizer
from t5x_like.data.cache.token_cache import TokenCache
from t5x_like.data.tokenizers.vocabularies import ByteVocabulary
from t5x_like.tasks import corpora
from t5x_like.tasks.caching import build
from t5x_like.tasks.vocabularies import SENTENCEPIECE, from_folder

SHARDS = 4


def encode_unigram(texts: list[str]) -> None:
    """`sentencepiece` on all texts at once."""
    SENTENCEPIECE.plain.processor.encode(texts, num_threads=2)


def bpe_encoder(folder: Path) -> Callable[[list[str]], None]:
    """`tokenizers` on all texts at once."""
    library = from_folder(folder).plain.tokenizer

    def encode(texts: list[str]) -> None:
        os.environ["TOKENIZERS_PARALLELISM"] = "true"
        for encoding in library.encode_batch(texts, add_special_tokens=False):
            _ = encoding.ids
        os.environ["TOKENIZERS_PARALLELISM"] = "false"

    return encode


def encode_bytes(texts: list[str]) -> None:
    """NumPy on each text."""
    np.concatenate(ByteVocabulary().encode_documents(texts))


def write_files(folder: Path, texts: list[str], repeats: int) -> None:
    """Writes the texts, repeated, as JSONL files."""
    for shard in range(SHARDS):
        lines = [json.dumps({"text": text}) + "\n" for text in texts[shard::SHARDS]]
        (folder / f"{shard}.jsonl").write_text("".join(lines * repeats))
    (folder / "validation.jsonl").write_text(lines[0])


def build_cache(folder: Path, name: str, vocabulary: str, workers: int) -> TokenCache:
    """Builds a new cache of the files."""
    files = {"train": str(folder / "[0-9].jsonl"), "validation": str(folder / "validation.jsonl")}
    arguments = files | {"text": "text", "vocabulary": vocabulary}
    shutil.rmtree(folder / "root", ignore_errors=True)
    build.build(name, "train", "t5x_like.tasks.custom.files", str(folder / "root"), arguments, workers)
    return TokenCache(name, "train", "t5x_like.tasks.custom.files", str(folder / "root"), arguments=arguments)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--repeats", type=int, default=8, help="of the embedded corpus of 10 MB (default: %(default)s; BPE: a quarter)"
    )
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts = [example["text"] for example in corpora.python_source("train")]
        write_files(folder, texts, 1)
        flags = ["train", "--kind=bpe", "--vocab_size=8192", "--input", str(folder / "0.jsonl")]
        tokenizer.main([*flags, f"--out={folder / 'bpe'}"])
        kinds = {
            "SentencePiece unigram": ("sp", encode_unigram, args.repeats),
            "byte-level BPE": (str(folder / "bpe"), bpe_encoder(folder / "bpe"), max(args.repeats // 4, 1)),
            "bytes": ("bytes", encode_bytes, args.repeats),
        }
        figures = {}
        for kind, (vocabulary, library, repeats) in kinds.items():
            write_files(folder, texts, repeats)
            figures[kind] = measure(folder, kind, vocabulary, library, texts * repeats, args.rounds)
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import t5x_like.tasks.caching.build"], check=True, stderr=subprocess.DEVNULL)
    importing = time.perf_counter() - started
    report.print_table("tokens per second", figures)
    print(f"importing TensorFlow and seqio, once per build: {importing:.1f} s")
    report.print_json(figures=figures, importing_seconds=importing, repeats=args.repeats)


def measure(folder: Path, kind: str, vocabulary: str, library: Callable, texts: list[str], rounds: int) -> dict:
    """Median tokens per second of the library and of builds with one and two processes, and the best build's share."""
    task = kind.lower().replace(" ", "_").replace("-", "_")
    cache = build_cache(folder, task, vocabulary, 2)
    feature = cache.manifest["features"]["targets"]
    tokens = feature["tokens"] - cache.manifest["documents"]  # without eos
    sides = {
        "library": lambda: library(texts),
        "1 worker": lambda: build_cache(folder, task, vocabulary, 1),
        "2 workers": lambda: build_cache(folder, task, vocabulary, 2),
    }
    seconds = report.time_interleaved(sides, rounds, warmup=0)
    rates = {name: tokens / report.summarize([wall for wall, _ in times])["median"] for name, times in seconds.items()}
    return rates | {"share": max(rates["1 worker"], rates["2 workers"]) / rates["library"]}


if __name__ == "__main__":
    main()

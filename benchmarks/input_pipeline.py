"""Tokens per second (without padding) from the token cache, compared with seqio live, seqio cached and grain.

All pipelines read the same documents and make equally many ids of them, which is checked first. LM rows are documents joined
and cut ("seqio packed" is T5X's default, which discards all but the documents' beginnings). Documents are complete ones,
several packed into a row; pairs have inputs and targets, also packed. seqio and grain have no counterpart of the other
objectives. Packing is done once, at the start of a run: its cost is measured separately and spread over one epoch.
"""

import argparse
import functools
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import seqio

import input_peers as peers
import report
from t5x_like.data import rows
from t5x_like.data.cache.token_cache import TokenCache
from t5x_like.data.rows import bart, fim, packing, permutation, ul2
from t5x_like.data.rows import pairs as rows_pairs
from t5x_like.data.stream import Stream
from t5x_like.tasks import corpora
from t5x_like.tasks.vocabularies import SENTENCEPIECE

LENGTH, PACKED, BATCH = 512, 256, 128
TEXTS, DOCUMENTS, PAIRS = "benchmark_texts", "benchmark_documents", "benchmark_pairs"
REPEATS = 40  # copies of the documents that are packed to measure the time of packing


class TargetsOnly(TokenCache):
    """A cache of pairs that reads only the targets, as documents."""

    features = ("targets",)


def cache_batches(kind: rows.Rows) -> Iterator[dict[str, np.ndarray]]:
    """Batches of a shuffled stream of these rows."""
    stream, step = Stream(kind, BATCH), 0
    while True:
        yield stream[step]
        step += 1


def count_tokens(batch: dict[str, np.ndarray]) -> int:
    """The number of ids that are not padding; no corpus contains the id 0."""
    names = ("encoder_input_tokens", "decoder_target_tokens")
    return sum(int(np.count_nonzero(batch[name])) for name in names if name in batch)


def measure(batches: Iterator[dict[str, np.ndarray]], seconds: float) -> float:
    """Tokens per second over `seconds` of making batches, after the first."""
    next(batches)
    spent, count = 0.0, 0
    while spent < seconds:
        started = time.perf_counter()
        batch = next(batches)
        spent += time.perf_counter() - started
        count += count_tokens(batch)
    return count / spent


def check_same_text(caches: dict[str, TokenCache]) -> None:
    """Checks that seqio live, its cache and ours have equally many ids for the same text in the first example of every task.

    The ids may differ: of two equally likely segmentations, as in runs of spaces, TensorFlow's operation and the
    sentencepiece library choose different ones.

    Raises:
      AssertionError: the texts differ.
    """
    for task, cache in caches.items():
        for cached in (False, True):
            dataset = seqio.TaskRegistry.get(task).get_dataset(
                None, "train", use_cached=cached, shuffle=False, trim_output_features=False
            )
            example = next(dataset.as_numpy_iterator())
            for feature in cache.features:
                theirs = example[feature]
                ours = cache.tokens(feature)[: len(theirs)]
                if cache.vocabulary.decode(theirs) != cache.vocabulary.decode(ours):
                    raise AssertionError(
                        f"{task}, {feature}: seqio (cached={cached}) and our cache hold different texts"
                    )


def measure_packing(examples: rows.PackedExamples) -> dict[str, float]:
    """Examples and tokens per second of packing REPEATS copies of all examples, and the fill of the rows of one copy."""
    lengths_NF = np.tile(examples.lengths_NF, (REPEATS, 1))
    order_N = np.random.default_rng(0).permutation(len(lengths_NF))
    started = time.perf_counter()
    packing.pack_first_fit(lengths_NF, tuple(examples.capacity.values()), order_N)
    spent = time.perf_counter() - started
    share = {f"fill {side}": x for side, x in examples.fill.items()}
    return {"examples/s": len(lengths_NF) / spent, "tokens/s": lengths_NF.sum() / spent, **share}


def peer_pipelines(
    caches: dict[str, TokenCache], lengths: dict[str, dict[str, int]]
) -> dict[str, Callable[[], Iterator]]:
    """The peers' pipelines on the same documents, by name."""
    pipelines: dict[str, Callable[[], Iterator]] = {}

    def add(name: str, task: str, pack: bool, how: str = "") -> None:
        size = lengths[task]
        pipelines[f"{name}, seqio{how}"] = lambda: peers.seqio_batches(task, size, pack, False, BATCH)
        pipelines[f"{name}, seqio cached{how}"] = lambda: peers.seqio_batches(task, size, pack, True, BATCH)
        if peers.grain is not None and how != " packed":
            pipelines[f"{name}, grain{how}"] = lambda: peers.grain_batches(caches[task], size, pack, BATCH)

    add("LM rows", TEXTS, False)
    add("LM rows", TEXTS, True, " packed")
    add("documents", DOCUMENTS, True)
    add("pairs", PAIRS, True)
    if peers.grain is None:
        print("grain is not installed (pip install grain): its pipelines are left out")
    return pipelines


def own_rows(texts: TokenCache, documents: TokenCache, pairs: TokenCache) -> dict[str, rows.Rows]:
    """All kinds of rows by name; the first three have peers."""
    return {
        "LM rows": rows.CausalLM(texts, LENGTH),
        "documents": rows.PackedExamples(documents, LENGTH, LENGTH),
        "pairs": rows.PackedExamples(pairs, PACKED, PACKED),
        "span corruption": rows.SpanCorruption(texts, LENGTH, 114),
        "prefix LM": rows.PrefixLM(texts, LENGTH),
        "UL2": ul2.MixtureOfDenoisers(texts, LENGTH, PACKED),
        "UL2 as prefix LM": ul2.PrefixMixtureOfDenoisers(texts, LENGTH),
        "BART": bart.Denoising(texts, LENGTH),
        "masked LM": rows.MaskedLM(texts, LENGTH),
        "whole words masked": rows.WholeWordMaskedLM(texts, LENGTH),
        "next sentence": rows_pairs.NextSentence(texts, LENGTH),
        "sentence order": rows_pairs.SentenceOrder(texts, LENGTH),
        "permutation LM": permutation.PermutationLM(texts, LENGTH),
        "fill in the middle": fim.FillInTheMiddle(texts, LENGTH),
    }


def main() -> None:
    """Prints tokens per second of all pipelines, and the cost of packing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of every pipeline in every round")
    args = parser.parse_args()
    texts, pairs = TokenCache("python_source_sp", "train"), TokenCache("python_docstrings_sp", "train")
    documents = TargetsOnly("python_docstrings_sp", "train")
    texts.ensure(), pairs.ensure()
    caches = {TEXTS: texts, DOCUMENTS: documents, PAIRS: pairs}
    lengths = {TEXTS: {"targets": LENGTH}, DOCUMENTS: {"targets": LENGTH}, PAIRS: {"inputs": PACKED, "targets": PACKED}}
    with tempfile.TemporaryDirectory() as folder:
        (model := Path(folder) / "model").write_bytes(texts.vocabulary.model)
        extra = SENTENCEPIECE.plain.extra_ids
        peers.add_task(TEXTS, corpora.python_source, {"targets": "text"}, model, extra, LENGTH)
        peers.add_task(DOCUMENTS, corpora.python_docstrings, {"targets": "targets"}, model, extra)
        peers.add_task(PAIRS, corpora.python_docstrings, {"inputs": "inputs", "targets": "targets"}, model, extra)
        for task in caches:
            peers.write_cached(task, Path(folder))
        seqio.add_global_cache_dirs([folder])
        check_same_text(caches)
        own = own_rows(texts, documents, pairs)
        pipelines = {name: functools.partial(cache_batches, kind) for name, kind in own.items()}
        pipelines |= peer_pipelines(caches, lengths)
        rates: dict[str, list[float]] = {name: [] for name in pipelines}
        for _ in range(args.rounds):
            for name, pipeline in pipelines.items():
                rates[name].append(measure(pipeline(), args.seconds))
    spreads = {name: report.summarize(x) for name, x in rates.items()}
    median = {name: x["median"] for name, x in spreads.items()}
    ratios = {name: median[name.partition(",")[0]] / median[name] for name in pipelines if name not in own}
    report.print_table(
        "tokens a second", {name: x | {"cache is": f"{ratios.get(name, 1):.0f} x"} for name, x in spreads.items()}
    )
    once = {name: measure_packing(own[name]) for name in ("documents", "pairs")}
    for name, x in once.items():
        report.print_table("packing, once", {name: x})
    with_packing = {name: 1 / (1 / median[name] + 1 / x["tokens/s"]) for name, x in once.items()}
    report.print_json(ratios=ratios, medians=median, packing_included_in_one_epoch=with_packing)


if __name__ == "__main__":
    main()

"""Real tokens a second (no padding) from the token cache against seqio's live pipeline on the same documents.

Both sides make as many ids of the same texts, which is checked first. seqio gets its best case: the texts lie in memory, its
own SentencePiece operation tokenizes them, and documents are joined and cut to the row's length as T5 does (its packing alone
would throw away all but their beginnings). "seqio, joined" ends there; "seqio, packed" is T5X's default (pack=True).
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
import tensorflow as tf

import report
from t5x_like.data import rows
from t5x_like.data.stream import Stream
from t5x_like.data.token_cache import TokenCache
from tasks import corpora
from tasks.vocabularies import SENTENCEPIECE

LENGTH, PACKED, BATCH = 512, 256, 128
TEXTS, PAIRS = "benchmark_texts", "benchmark_pairs"


def in_memory(corpus, names: dict[str, str], split: str, shuffle_files: bool, seed: int | None = None):
    """A corpus as tf.data, read before the clock runs; `names` are the features' fields."""
    examples = list(corpus(split))
    return tf.data.Dataset.from_tensor_slices({new: [x[old] for x in examples] for new, old in names.items()})


def joined(dataset: tf.data.Dataset, length: int) -> tf.data.Dataset:
    """T5's reduce_concat_tokens and split_tokens: 128 documents are joined, and cut into rows."""
    together = dataset.map(lambda x: x["targets"]).ragged_batch(128).map(lambda x: x.flat_values)
    cut = together.flat_map(lambda x: tf.data.Dataset.from_tensor_slices(x).batch(length))
    return cut.map(lambda x: {"targets": x}, num_parallel_calls=tf.data.AUTOTUNE)


def add_tasks(model: Path) -> None:
    """The two tasks as a user of seqio writes them, with seqio's own vocabulary."""
    vocabulary = seqio.SentencePieceVocabulary(str(model), extra_ids=SENTENCEPIECE.light.extra_ids)
    ids = [seqio.preprocessors.tokenize, seqio.preprocessors.append_eos]
    texts, pairs = {"targets": "text"}, {"inputs": "inputs", "targets": "targets"}
    for name, corpus, names, steps in (
        (TEXTS, corpora.python_source, texts, [*ids, functools.partial(joined, length=LENGTH)]),
        (PAIRS, corpora.python_docstrings, pairs, ids),
    ):
        seqio.TaskRegistry.add(
            name,
            source=seqio.FunctionDataSource(functools.partial(in_memory, corpus, names), splits=corpora.SPLITS),
            preprocessors=steps,
            output_features={feature: seqio.Feature(vocabulary, add_eos=True) for feature in names},
            metric_fns=[],
        )


def live(task: str, lengths: dict[str, int], converter: seqio.FeatureConverter) -> Iterator[dict[str, np.ndarray]]:
    """Batches of a task as seqio gives them, tokenized on the way."""
    dataset = seqio.get_dataset(
        task, lengths, converter, dataset_split="train", shuffle=False, num_epochs=None, use_cached=False
    )
    return dataset.batch(BATCH).prefetch(2).as_numpy_iterator()


def cached(made: rows.Rows) -> Iterator[dict[str, np.ndarray]]:
    """Batches of a shuffled stream of these rows."""
    stream, step = Stream(made, BATCH), 0
    while True:
        yield stream[step]
        step += 1


def tokens(batch: dict[str, np.ndarray]) -> int:
    """Ids of a batch that are not padding: no corpus holds the id 0."""
    names = ("encoder_input_tokens", "decoder_target_tokens")
    return sum(np.count_nonzero(batch[name]) for name in names if name in batch)


def rate(batches: Iterator, seconds: float) -> float:
    """Tokens a second over `seconds` of making batches, after the first."""
    next(batches)
    spent, made = 0.0, 0
    while spent < seconds:
        started = time.perf_counter()
        batch = next(batches)
        spent += time.perf_counter() - started
        made += tokens(batch)
    return made / spent


def check_same_text(texts: TokenCache, pairs: TokenCache) -> None:
    """The first ids of either task, from seqio and from the cache, are as many and stand for the same text.

    They need not be the same ids: where two spellings are equally likely, as in runs of spaces, TensorFlow's operation and
    the sentencepiece library choose differently.
    """
    for cache, task in ((texts, TEXTS), (pairs, PAIRS)):
        made = seqio.TaskRegistry.get(task).get_dataset(None, "train", shuffle=False, trim_output_features=False)
        example = next(made.as_numpy_iterator())
        for feature in cache.features:
            theirs = example[feature]
            ours = cache.tokens(feature)[: len(theirs)]
            if cache.vocabulary.decode(theirs) != cache.vocabulary.decode(ours):
                raise AssertionError(f"{task}, {feature}: seqio and the cache hold different texts")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of every side in every round")
    args = parser.parse_args()
    texts, pairs = TokenCache("python_source_sp", "train"), TokenCache("python_docstrings_sp", "train")
    texts.ensure(), pairs.ensure()
    with tempfile.TemporaryDirectory() as folder:
        (model := Path(folder) / "model").write_bytes(texts.vocabulary.model)
        add_tasks(model)
        check_same_text(texts, pairs)
        lm, both = {"targets": LENGTH}, {"inputs": PACKED, "targets": PACKED}
        sides: dict[str, Callable[[], Iterator]] = {
            "LM rows, cache": lambda: cached(rows.CausalLM(texts, LENGTH)),
            "LM rows, seqio packed": lambda: live(TEXTS, lm, seqio.LMFeatureConverter(pack=True)),
            "LM rows, seqio joined": lambda: live(TEXTS, lm, seqio.LMFeatureConverter(pack=False)),
            "pairs, cache": lambda: cached(rows.PackedExamples(pairs, PACKED, PACKED)),
            "pairs, seqio packed": lambda: live(PAIRS, both, seqio.EncDecFeatureConverter(pack=True)),
            "span corruption, cache": lambda: cached(rows.SpanCorruption(texts, LENGTH, 114)),
        }
        rates: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(args.rounds):
            for name, side in sides.items():
                rates[name].append(rate(side(), args.seconds))
    spreads = {name: report.spread(x) for name, x in rates.items()}
    report.show("tokens a second", spreads)
    median = {name: x["median"] for name, x in spreads.items()}
    report.finish(
        ratio=median["LM rows, cache"] / median["LM rows, seqio packed"],
        ratio_joined=median["LM rows, cache"] / median["LM rows, seqio joined"],
        ratio_pairs=median["pairs, cache"] / median["pairs, seqio packed"],
        **spreads["LM rows, cache"],
    )


if __name__ == "__main__":
    main()

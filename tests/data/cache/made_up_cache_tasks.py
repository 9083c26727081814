"""Tasks whose caches the tests build: several shards, bad input, masks, metrics, and various preprocessors."""

import collections
import functools
import os
import time

import seqio
import tensorflow as tf

from t5x_like.tasks import vocabularies
from t5x_like.text_metrics import answers

SHARDS = 3
WORDS = ("alpha", "beta", "gamma", "délta", "▁", "")


def text(number: int, words: int) -> str:
    return " ".join(WORDS[(number * 7 + k * k) % len(WORDS)] for k in range(words))


def lines(shard: int, words: int = 12):
    """The documents of a shard, of various lengths."""
    for number in range(shard * 100, shard * 100 + 5 + 40 * shard):
        yield {"inputs": text(number, words // 2), "targets": text(number, number % words), "answer": f"{number}"}


def long_lines(shard: int):
    """A few documents that fill several chunks, read slowly if $SLOWLY is set."""
    for number in range(10):
        time.sleep(float(os.environ.get("SLOWLY", 0)))
        yield {"targets": f"{shard} {number} " + "word " * 60_000}


def failing(shard: int):
    yield from ({"targets": f"document {number}"} for number in range(70))
    raise RuntimeError("the disk is on fire")


def bad_bytes(shard: int):
    yield {"targets": b"good"}
    yield {"targets": b"bad \xff\xfe bytes \x00 and \xe2\x82"}


def huge(shard: int):
    yield {"targets": "x" * 100_000_000}
    yield {"targets": "small"}


def conversation(shard: int):
    yield {"targets": "question answer", "targets_mask": [0] * 9 + [1] * 6, "messages": ["question", "answer"]}


class Shards(seqio.DataSource):
    """Yields `examples(shard)`; shard i drops i documents."""

    supports_arbitrary_sharding = False

    def __init__(self, examples, fields: dict, shards: int = SHARDS):
        super().__init__(splits=("train", "empty"))
        self.examples, self.fields, self.shards = examples, fields, shards
        self.dropped = {}

    def list_shards(self, split):
        return [f"part-{i}" for i in range(self.shards)]

    def get_dataset(self, split, shuffle=True, seed=None, shard_info=None, **_):
        index = shard_info.index if shard_info else 0
        return tf.data.Dataset.from_generator(lambda: self.read(split, index), output_signature=self.fields)

    def read(self, split, index):
        counts = self.dropped[split, f"part-{index}"] = collections.Counter()
        yield from self.examples(index) if split == "train" else ()
        if index:
            counts["made_up.rule"] += index


TEXT = tf.TensorSpec((), tf.string)
TOKENIZE, EOS = seqio.preprocessors.tokenize, seqio.preprocessors.append_eos
NO_COPY = functools.partial(TOKENIZE, copy_pretokenized=False)


def add(name, source, steps, features=("targets",), metrics=(), vocabulary=vocabularies.BYTES, **options):
    output_features = {feature: seqio.Feature(vocabulary) for feature in features}
    seqio.TaskRegistry.add(
        name,
        source=source,
        preprocessors=[*steps, seqio.CacheDatasetPlaceholder()],
        output_features=output_features | options,
        metric_fns=list(metrics),
        postprocess_fn=answer if metrics else None,
    )


def answer(text, example=None, is_target=False):
    return example["answer"] if is_target else text


PAIR = {"inputs": TEXT, "targets": TEXT, "answer": TEXT}


def weighted(targets, predictions, weight=1.0):
    return {"weight": weight}


BOTH = ("inputs", "targets")
add("pairs", Shards(lines, PAIR), (TOKENIZE, EOS), BOTH)
add(
    "pairs_judged", Shards(lines, PAIR), (TOKENIZE, EOS), BOTH, [answers.squad, functools.partial(weighted, weight=2.0)]
)
add("pairs_no_copy", Shards(lines, PAIR), (NO_COPY, EOS), BOTH, [answers.squad])
add("pairs_both_eos", Shards(lines, PAIR), (seqio.preprocessors.tokenize_and_append_eos, EOS), BOTH)
add("pairs_no_eos", Shards(lines, PAIR), (TOKENIZE, EOS), inputs=seqio.Feature(vocabularies.BYTES, add_eos=False))
add(
    "pairs_small_model",
    Shards(lines, PAIR),
    (TOKENIZE, EOS),
    BOTH,
    vocabulary=vocabularies.SeqioVocabulary(lambda: small()),
)
add("long", Shards(long_lines, {"targets": TEXT}), (TOKENIZE, EOS))
add("failing", Shards(failing, {"targets": TEXT}, 1), (TOKENIZE, EOS))
add("bad_bytes", Shards(bad_bytes, {"targets": TEXT}, 1), (TOKENIZE, EOS))
add("huge", Shards(huge, {"targets": TEXT}, 1), (TOKENIZE, EOS))
add("missing", Shards(lines, PAIR), (TOKENIZE, EOS), ("target",))
add("missing_in_step", Shards(lines, PAIR), (lambda d: d.map(lambda x: {"targets": x["text"]}), TOKENIZE))
add("lambda_metric", Shards(lines, PAIR), (TOKENIZE, EOS), BOTH, [lambda targets, predictions: {}])
MASKED = {
    "targets": TEXT,
    "targets_mask": tf.TensorSpec([None], tf.int32),
    "messages": tf.TensorSpec([None], tf.string),
}
mask = seqio.Feature(seqio.PassThroughVocabulary(2), add_eos=False)
add("masked", Shards(conversation, MASKED, 1), (TOKENIZE,), targets_mask=mask, metrics=[answers.squad])
add(
    "wide_mask",
    Shards(conversation, MASKED, 1),
    (TOKENIZE,),
    targets_mask=seqio.Feature(seqio.PassThroughVocabulary(3)),
)


@functools.cache
def small():
    """A SentencePiece model trained on these documents."""
    texts = [example["targets"] for shard in range(SHARDS) for example in lines(shard, 40)]
    return vocabularies.vocabularies.SentencePieceVocabulary(vocabularies.train_sentencepiece(texts, 285, 10), 10)


def define(name: str, folder: str) -> None:
    """Registers a task with the tokenizer in a folder."""
    add(name, Shards(lines, PAIR), (TOKENIZE, EOS), BOTH, vocabulary=vocabularies.from_folder(folder))

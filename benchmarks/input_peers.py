"""The peers of input_pipeline.py on the same documents: seqio live, seqio from its own offline cache, and grain.

All get their best case. seqio live: the texts lie in memory and its own SentencePiece operation tokenizes them. seqio cached:
TFRecords as its cache job writes them, without the texts. grain: the ids of every document lie in memory, and are read
without threads, which is faster here than with.
"""

import functools
import json
import operator
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import seqio
import tensorflow as tf

from t5x_like.data.cache.token_cache import TokenCache
from t5x_like.tasks import corpora

try:
    import grain
except ImportError:
    grain = None

SHARDS = 4  # of seqio's cache: more than cores
BINS = 64  # rows that grain fills at a time
Batches = Iterator[dict[str, np.ndarray]]


@functools.cache
def examples_of(corpus, split: str) -> list[dict[str, str]]:
    """A corpus, read once for all sides."""
    return list(corpus(split))


def in_memory(corpus, names: dict[str, str], split: str, shuffle_files: bool, seed: int | None = None):
    """A corpus as tf.data, read before the clock runs; `names` are the features' fields."""
    examples = examples_of(corpus, split)
    return tf.data.Dataset.from_tensor_slices({new: [x[old] for x in examples] for new, old in names.items()})


def joined(dataset: tf.data.Dataset, length: int) -> tf.data.Dataset:
    """T5's reduce_concat_tokens and split_tokens: 128 documents are joined, and cut into rows."""
    ids = dataset.map(operator.itemgetter("targets"))
    together = ids.ragged_batch(128).map(operator.attrgetter("flat_values"))
    cut = together.flat_map(lambda x: tf.data.Dataset.from_tensor_slices(x).batch(length))
    return cut.map(lambda x: {"targets": x}, num_parallel_calls=tf.data.AUTOTUNE)


def add_task(name: str, corpus, names: dict[str, str], model: Path, extra_ids: int, length: int | None = None) -> None:
    """A task as a user of seqio writes it, with seqio's own vocabulary; joined and cut where there is a `length`."""
    vocabulary = seqio.SentencePieceVocabulary(str(model), extra_ids=extra_ids)
    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(functools.partial(in_memory, corpus, names), splits=corpora.SPLITS),
        preprocessors=[
            functools.partial(seqio.preprocessors.tokenize, copy_pretokenized=False),
            seqio.CacheDatasetPlaceholder(),
            seqio.preprocessors.append_eos,
            *([functools.partial(joined, length=length)] if length else []),
        ],
        output_features={feature: seqio.Feature(vocabulary, add_eos=True) for feature in names},
        metric_fns=[],
    )


def write_cached(name: str, folder: Path) -> None:
    """The split "train" of a task as seqio's cache job writes it."""
    task = seqio.TaskRegistry.get(name)
    examples = list(
        task.preprocess_precache(task.source.get_dataset("train", shuffle=False), seed=None).as_numpy_iterator()
    )
    (here := folder / seqio.utils.get_task_dir_from_name(name)).mkdir()
    for shard in range(SHARDS):
        path = f"{seqio.utils.get_cached_tfrecord_prefix(str(here), 'train')}-{shard:05}-of-{SHARDS:05}"
        with tf.io.TFRecordWriter(path) as file:
            for example in examples[shard::SHARDS]:
                file.write(seqio.utils.dict_to_tfexample(example).SerializeToString())
    features = {feature: {"dtype": "int32", "shape": [None]} for feature in task.output_features}
    info = {"num_shards": SHARDS, "features": features, "seqio_version": seqio.__version__}
    Path(seqio.utils.get_cached_info_path(str(here), "train")).write_text(json.dumps(info))
    Path(seqio.utils.get_cached_stats_path(str(here), "train")).write_text(json.dumps({"examples": len(examples)}))
    (here / "COMPLETED").touch()


def of_seqio(task: str, lengths: dict[str, int], pack: bool, cached: bool, batch_size: int) -> Batches:
    """Batches of a task as seqio gives them: tokenized on the way, or from its cache."""
    kind = seqio.EncDecFeatureConverter if "inputs" in lengths else seqio.LMFeatureConverter
    dataset = seqio.get_dataset(
        task, lengths, kind(pack=pack), dataset_split="train", shuffle=False, num_epochs=None, use_cached=cached
    )
    return dataset.batch(batch_size).prefetch(2).as_numpy_iterator()


def documents(cache: TokenCache, lengths: dict[str, int]) -> list[dict[str, np.ndarray]]:
    """The ids of every document, cut to the rows' lengths where they are packed whole."""
    made = {
        name: [x[:length] for x in np.split(np.array(cache.tokens(name), np.int32), cache.offsets(name)[1:-1])]
        for name, length in lengths.items()
    }
    return [dict(zip(made, values, strict=True)) for values in zip(*made.values(), strict=True)]


def of_grain(cache: TokenCache, lengths: dict[str, int], pack: bool, batch_size: int) -> Batches:
    """Batches of shuffled documents, packed first-fit or joined and cut by grain; inputs are not shifted."""
    source = documents(cache, lengths if pack else dict.fromkeys(lengths))
    reading = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    shuffled = grain.MapDataset.source(source).shuffle(seed=0).repeat().to_iter_dataset(reading)
    if pack:
        made = grain.experimental.FirstFitPackIterDataset(shuffled, length_struct=lengths, num_packing_bins=BINS)
    else:
        made = grain.experimental.ConcatThenSplitIterDataset(shuffled, length_struct=lengths)
    names = {"inputs": "encoder_input_tokens", "targets": "decoder_target_tokens"}
    for batch in made.batch(batch_size):
        yield {names.get(name, name): x for name, x in batch.items()}
